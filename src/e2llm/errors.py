"""Errors that are the user's to mend: the command line shows their text on one line and exits with 1."""


class E2LLMError(ValueError):
    """Bad input: the message says what was got, what is allowed and what to change."""


class ContextOverflowError(E2LLMError):
    """The soft tokens and the prompt need more decoder positions than the window has."""


class CheckpointError(E2LLMError):
    """A checkpoint that is incomplete, damaged or made for other base models."""


class StoreError(E2LLMError):
    """A store of encoded chunks that is damaged, of another making, full, or not to be written to."""


class E2LLMWarning(UserWarning):
    """What a user should know of an answer, and is no error, such as a rate without training."""


class MissingExtraError(ImportError):
    """An optional library is not installed; the message names the extra that brings it."""

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(f"{library} is not installed; it comes with: pip install 'e2llm[{extra}]'")
