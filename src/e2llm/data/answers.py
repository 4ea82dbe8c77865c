"""Whether an answer stands in a context, as far as that can be told without understanding either."""

import re

_SEPARATORS = re.compile(r"[\W_]+")


def normalize(text: str) -> str:
    """A text in one case, with one space in the place of every run of spaces and punctuation."""
    return _SEPARATORS.sub(" ", text.casefold()).strip()


class AnswerFinder:
    """Looks answers up; the last context stays normalized, as the questions of one follow each other."""

    def __init__(self) -> None:
        self._context = ""
        self._normalized = ""

    def stands_in(self, answer: str, context: str) -> bool:
        """Whether an answer stands in a context as whole words, but for case, spaces and punctuation."""
        if _holds_words(context, answer.strip()):
            return True
        wanted = normalize(answer)
        if not wanted:
            return False
        if context != self._context:
            self._context, self._normalized = context, normalize(context)
        return _holds_words(self._normalized, wanted)


def _holds_words(text: str, wanted: str) -> bool:
    """Whether `wanted` occurs with no ASCII letter or digit going on beyond its ends.

    Other scripts may have no spaces, so that nothing can be said of where their words end.
    """
    at = text.find(wanted)
    while at >= 0:
        end = at + len(wanted)
        if not _goes_on(text[at - 1 : at], wanted[:1]) and not _goes_on(wanted[-1:], text[end : end + 1]):
            return True
        at = text.find(wanted, at + 1)
    return False


def _goes_on(before: str, after: str) -> bool:
    return before.isascii() and before.isalnum() and after.isascii() and after.isalnum()
