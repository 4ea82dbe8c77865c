"""API keys: kept as hashes, compared in constant time, and what each may see."""

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from pathlib import Path

from e2llm.errors import E2LLMError
from e2llm.serving.api_errors import ApiError

MIN_KEY_CHARS = 16
ANYONE = "anyone"
_PREFIX = "sha256:"


def new_key() -> str:
    """A key that nobody guesses: 32 random bytes in letters."""
    return f"e2llm-{secrets.token_urlsafe(32)}"


def hash_key(key: str) -> str:
    """SHA-256 of a key, in hexadecimal; keys are long and random, so no salt or slow hash is needed.

    Raises:
        E2LLMError: If the key is too short, or could not be sent in a header.
    """
    if len(key) < MIN_KEY_CHARS or not key.isascii() or not key.isprintable() or " " in key:
        raise E2LLMError(
            f"an API key must have {MIN_KEY_CHARS} or more printable ASCII characters and no space, "
            f"got {len(key)} characters; e2llm serve --new-api-key makes one"
        )
    return hashlib.sha256(key.encode()).hexdigest()


def read_key_file(file: Path) -> list[str]:
    """The hashes in a file: a line `sha256:HEX` each; empty lines and those that begin with # do not count.

    Raises:
        FileNotFoundError: If there is no such file.
        E2LLMError: If a line is something else, such as a key in the clear, or the file is no text.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise E2LLMError(
            f"{file}: is no UTF-8 text; name a file with a line sha256:HEX for each key"
        ) from error
    hashes = []
    for number, line in enumerate(text.splitlines(), 1):
        entry = line.split("#")[0].strip()
        if not entry:
            continue
        digest = entry.removeprefix(_PREFIX).lower()
        if not entry.startswith(_PREFIX) or len(digest) != 64 or set(digest) - set("0123456789abcdef"):
            raise E2LLMError(
                f"{file}, line {number}: expected sha256: and 64 hexadecimal digits; "
                "e2llm serve --new-api-key makes a key with its line"
            )
        hashes.append(digest)
    if not hashes:
        raise E2LLMError(f"{file}: no key in it; e2llm serve --new-api-key makes one")
    return hashes


def key_line(key: str) -> str:
    """The line of a key file that lets a key in."""
    return f"{_PREFIX}{hash_key(key)}"


class KeyRing:
    """The keys that are let in.

    Args:
        hashes: SHA-256 of each, in hexadecimal; none to let anyone in.
    """

    def __init__(self, hashes: Iterable[str]) -> None:
        self._hashes = tuple(dict.fromkeys(hashes))

    def owner(self, authorization: str | None) -> str:
        """Who calls, by the header `Authorization: Bearer KEY`.

        Returns:
            A name for the owner of contexts: part of the key's hash, or `anyone` where no key is asked for.

        Raises:
            ApiError: 401 if the key is missing or wrong.
        """
        if not self._hashes:
            return ANYONE
        scheme, _, key = (authorization or "").partition(" ")
        digest = hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).hexdigest()
        # All are compared, each in constant time: how long it takes says nothing of them.
        matches = [hmac.compare_digest(digest, known) for known in self._hashes]
        if scheme.lower() != "bearer" or not any(matches):
            raise ApiError(
                401,
                "the API key is missing or wrong; send it as 'Authorization: Bearer KEY'",
                code="invalid_api_key",
            )
        return digest[:32]
