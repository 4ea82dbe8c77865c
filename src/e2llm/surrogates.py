"""Characters of a Python string that are no text: lone surrogates, which no tokenizer reads, and NUL."""

from e2llm.errors import E2LLMError


def check_text(text: str, name: str = "the text") -> None:
    """Raise `E2LLMError` if a text to read or a question has NUL, as binary data do, or a lone surrogate."""
    if "\0" in text:
        raise E2LLMError(
            f"{name}: character {text.index(chr(0)):,} is zero (NUL), so it is binary data; give text alone"
        )
    reject_lone_surrogates(text, name)


def reject_lone_surrogates(text: str, name: str = "the text") -> None:
    """Raise `E2LLMError` if a text has half of a surrogate pair, as undecodable bytes leave it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise E2LLMError(
            f"{name}: character {error.start} is a lone surrogate ({text[error.start]!r}), which "
            "tokenizers cannot read; decode the bytes with errors='replace'"
        ) from None
