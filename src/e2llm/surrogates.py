"""Lone surrogates: characters of a Python string that are not text, and that no tokenizer reads."""

from e2llm.errors import E2LLMError


def reject_lone_surrogates(text: str, name: str = "the text") -> None:
    """Raise `E2LLMError` if a text has half of a surrogate pair, as undecodable bytes leave it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise E2LLMError(
            f"{name}: character {error.start} is a lone surrogate ({text[error.start]!r}), which "
            "tokenizers cannot read; decode the bytes with errors='replace'"
        ) from None
