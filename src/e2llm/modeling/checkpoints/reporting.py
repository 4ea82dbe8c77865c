"""Hide transformers' bars and reports while loading, and turn its errors into one line."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from e2llm.errors import CheckpointError, E2LLMError, MissingExtraError


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Silence transformers' loading bars and reports; our loaders check the same and raise."""
    verbosity = transformers_logging.get_verbosity()
    had_bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if had_bars:
            transformers_logging.enable_progress_bar()


@contextmanager
def readable_errors(subject: str) -> Iterator[None]:
    """Turn the many errors of loading into one line, which begins with the subject."""
    try:
        yield
    except (E2LLMError, FileNotFoundError, MissingExtraError):
        raise
    except SafetensorError as error:
        raise CheckpointError(f"{subject}: damaged or truncated safetensors file ({error})") from error
    except Exception as error:  # transformers raises all kinds for a damaged or unsupported file
        raise CheckpointError(f"{subject}: cannot be loaded: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its first paragraph if that line ends with a colon."""
    lines = str(error).split("\n\n")[0].strip().splitlines() or [type(error).__name__]
    return " ".join(line.strip() for line in lines) if lines[0].endswith(":") else lines[0]


def listing(names: Sequence[str], limit: int = 4) -> str:
    """Return the first names, and the number of further ones."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(sorted(names)[:limit]) + more
