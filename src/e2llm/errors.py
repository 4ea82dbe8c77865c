"""Errors that the user can fix: the command line prints their text on one line and exits with 1."""


class E2LLMError(ValueError):
    """Bad input: the message says what was received, what is allowed and what to change."""


class ContextOverflowError(E2LLMError):
    """The soft tokens and the prompt need more decoder positions than the window has."""


class CheckpointError(E2LLMError):
    """A checkpoint that is incomplete, damaged or made for other base models."""


class StoreError(E2LLMError):
    """A store of encoded chunks that is damaged, not one of e2llm, full, or read-only."""


class E2LLMWarning(UserWarning):
    """Something that a user should know about an answer, such as a rate without training."""


class MissingExtraError(ImportError):
    """An optional library is not installed; the message names the extra that installs it."""

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(f"{library} is not installed; install it with: pip install 'e2llm[{extra}]'")
