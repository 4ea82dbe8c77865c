"""API keys: stored as hashes, and compared in constant time."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from pathlib import Path

from e2llm.errors import E2LLMError
from e2llm.file_bytes import read_text
from e2llm.serving.http.api_error import ApiError

MIN_KEY_CHARS = 16
ANYONE = "anyone"
_PREFIX = "sha256:"
_LINE = re.compile(r"sha256:[0-9a-fA-F]{64}")


def new_key() -> str:
    """Return a key that cannot be guessed: 32 random bytes in letters."""
    return f"e2llm-{secrets.token_urlsafe(32)}"


def hash_key(key: str) -> str:
    """Return the SHA-256 of a key, in hexadecimal; keys are long and random, so a plain hash is enough.

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
    """Return the hashes in a file of lines `sha256:HEX`; empty lines and comments (#) are skipped.

    Raises:
        FileNotFoundError: If the file does not exist.
        E2LLMError: If a line is something else, such as a key in the clear, or the file is not a text.
    """
    text = read_text(file)
    hashes = []
    for number, line in enumerate(text.splitlines(), 1):
        entry = line.split("#")[0].strip()
        if not entry:
            continue
        if not _LINE.fullmatch(entry):
            raise E2LLMError(
                f"{file}, line {number}: expected sha256: and 64 hexadecimal digits; "
                "e2llm serve --new-api-key makes a key with its line"
            )
        hashes.append(entry.removeprefix(_PREFIX).lower())
    if not hashes:
        raise E2LLMError(f"{file} contains no key; e2llm serve --new-api-key makes one")
    return hashes


def key_line(key: str) -> str:
    """Return the line of a key file that lets a key in."""
    return f"{_PREFIX}{hash_key(key)}"


class KeyRing:
    """The keys that are let in.

    Args:
        hashes: SHA-256 of each, in hexadecimal; none to let anyone in.
    """

    def __init__(self, hashes: Iterable[str]) -> None:
        self._hashes = tuple(dict.fromkeys(hashes))

    def owner(self, authorization: str | None) -> str:
        """Return the caller of a request with the header `Authorization: Bearer KEY`.

        Returns:
            The owner of the caller's contexts: part of the key's hash, or `anyone` where no key is needed.

        Raises:
            ApiError: 401 if the key is missing or wrong.
        """
        if not self._hashes:
            return ANYONE
        scheme, _, key = (authorization or "").partition(" ")
        digest = hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).hexdigest()
        # All are compared, each in constant time: the time it takes reveals nothing.
        matches = [hmac.compare_digest(digest, known) for known in self._hashes]
        if scheme.lower() != "bearer" or not any(matches):
            raise ApiError(
                401,
                "the API key is missing or wrong; send it as 'Authorization: Bearer KEY'",
                code="invalid_api_key",
            )
        return digest[:32]
