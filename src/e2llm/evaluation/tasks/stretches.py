"""Parts of a text that are measured in tokens: the longest beginning or end that fits."""

from collections.abc import Callable, Iterator

from e2llm.chunking import split_text
from e2llm.errors import E2LLMError
from e2llm.evaluation.items import TaskRequest

_CHARS_PER_TOKEN = 4  # the first guess; what the tokenizer says corrects it
_NUM_GUESSES = 8  # by proportion, which is exact for even text
_MAX_STEPS = 40
_MAX_WORD_CHARS = 100  # longer runs without white space are no words, but a script without spaces


def check_lengths(task: str, request: TaskRequest, least: int) -> None:
    """Raise `E2LLMError` if a length is below the least that a task can fill."""
    if min(request.lengths) < least:
        raise E2LLMError(
            f"{task} needs lengths of at least {least} tokens, got {min(request.lengths)}; raise them"
        )


def _longest_piece(
    take: Callable[[int], str], most_chars: int, num_tokens: int, count_tokens: Callable[[str], int]
) -> str:
    """Return the longest piece of at most `num_tokens` that a few guesses find, rarely more than 1% below.

    Args:
        take: Returns the piece of at most a number of characters.
        most_chars: Characters of the longest piece.
        num_tokens: At least 0.
        count_tokens: Tokens of a text.
    """
    best, low, high = "", 0, most_chars + 1
    chars = min(most_chars, num_tokens * _CHARS_PER_TOKEN)
    for step in range(_MAX_STEPS):
        piece = take(chars)
        count = count_tokens(piece) if piece else 0
        if count <= num_tokens:
            low, best = chars, max(best, piece, key=len)
            if chars == most_chars or count >= num_tokens - num_tokens // 200:
                break
        else:
            high = chars
        if high - low <= 1:
            break
        guess = chars * num_tokens // count if count and step < _NUM_GUESSES else (low + high) // 2
        chars = min(max(guess, low + 1), high - 1)
    return best


def first_tokens(text: str, num_tokens: int, count_tokens: Callable[[str], int]) -> str:
    """Return the beginning of a text, in whole words, of at most `num_tokens`."""
    return _longest_piece(lambda chars: text[: _word_end(text, chars)], len(text), num_tokens, count_tokens)


def last_tokens(text: str, num_tokens: int, count_tokens: Callable[[str], int]) -> str:
    """Return the end of a text, in whole words, of at most `num_tokens`."""
    size = len(text)
    return _longest_piece(
        lambda chars: text[_word_start(text, size - chars) :], size, num_tokens, count_tokens
    )


def first_lines(text: str, num_tokens: int, count_tokens: Callable[[str], int]) -> str:
    """Return the beginning of a text, in whole lines, of at most `num_tokens`."""

    def take(chars: int) -> str:
        return text if chars >= len(text) else text[: text.rfind("\n", 0, chars + 1) + 1]

    return _longest_piece(take, len(text), num_tokens, count_tokens)


def runs_of_chunks(text: str, num_tokens: int, count_tokens: Callable[[str], int]) -> Iterator[str]:
    """Yield runs of whole chunks in sequence, each as long as fits, stripped and not empty.

    Args:
        text: Text to split into chunks of the usual size.
        num_tokens: Most tokens of a run; a chunk that is longer by itself is cut.
        count_tokens: Tokens of a text.
    """
    run = ""
    for chunk in split_text(text):
        joined = run + chunk.text
        if count_tokens(joined.strip()) <= num_tokens:
            run = joined
            continue
        if run.strip():
            yield run.strip()
        run = chunk.text
        if count_tokens(run.strip()) > num_tokens:
            yield first_tokens(run.strip(), num_tokens, count_tokens)
            run = ""
    if run.strip():
        yield run.strip()


def _word_end(text: str, place: int) -> int:
    """Return the end of the last whole word up to `place`; `place` itself where there are no words."""
    if place >= len(text):
        return len(text)
    for end in range(place, max(0, place - _MAX_WORD_CHARS), -1):
        if text[end].isspace():
            return end
    return 0 if place < _MAX_WORD_CHARS else place


def _word_start(text: str, place: int) -> int:
    """Return the start of the first whole word from `place` on; `place` itself where there are no words."""
    if place <= 0:
        return 0
    for start in range(place, min(len(text), place + _MAX_WORD_CHARS)):
        if text[start - 1].isspace() and not text[start].isspace():
            return start
    return len(text) if len(text) - place < _MAX_WORD_CHARS else place
