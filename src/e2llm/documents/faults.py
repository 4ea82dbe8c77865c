"""What is wrong with a file, in one sentence each, and what was left out."""

import io
import os
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from e2llm.errors import E2LLMError
from e2llm.messages import counted

MAX_BYTES = 10**9
LIMIT_NAME = "E2LLM_MAX_BYTES"
_PIECE_BYTES = 2**20
_ENCRYPTED = 1  # flag of a member of an archive
_MAX_NAMED = 3
# Reasons that concern no text, or come from rules; all others say what is wrong with a file.
RULES = frozenset({"hidden", "ignored", "link", "generated", "binary", "empty"})


class LeftOut(NamedTuple):
    """A file that was not read.

    Attributes:
        name: Its path, or its name in the message that it is attached to.
        reason: One of `RULES`, or a sentence.
    """

    name: str
    reason: str

    @property
    def is_loss(self) -> bool:
        """Whether its text may be missed."""
        return self.reason not in RULES


def summarize_left_out(items: Sequence[LeftOut]) -> str:
    """Return how many files were left out for which reason, and the first names; those with text first."""
    groups: dict[str, list[str]] = {}
    for item in sorted(items, key=lambda item: (not item.is_loss, item.reason in RULES and item.reason)):
        group, text = (
            ("not read", f"{item.name}: {item.reason}") if item.is_loss else (item.reason, item.name)
        )
        groups.setdefault(group, []).append(text)
    return ", ".join(
        f"{len(texts):,} {group} ({'; '.join(texts[:_MAX_NAMED])}{'; ...' * (len(texts) > _MAX_NAMED)})"
        for group, texts in groups.items()
    )


@contextmanager
def damage_of(name: str, kind: str) -> Iterator[None]:
    """Turn whatever a library raises about a damaged file into one sentence.

    Raises:
        E2LLMError: If the block raises anything but it, a missing library, or the end of memory.
    """
    try:
        yield
    except (E2LLMError, ImportError, MemoryError):
        raise
    except Exception as error:  # on damage, the parsers raise exceptions of every kind
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise E2LLMError(
            f"{name}: the file is damaged, or not {kind} ({reason}); save it again with its program"
        ) from error


def check_archive(data: bytes, name: str, limit: int) -> None:
    """Read every member of a ZIP archive once.

    Raises:
        E2LLMError: If the archive is damaged or encrypted, or its members have more than `limit` bytes.
    """
    total = 0
    with damage_of(name, "a ZIP archive"), zipfile.ZipFile(io.BytesIO(data)) as archive:
        for member in archive.infolist():
            if member.flag_bits & _ENCRYPTED:
                raise E2LLMError(f"{name}: the file is encrypted; save it without a password")
            with archive.open(member) as stream:
                while piece := stream.read(_PIECE_BYTES):
                    total += len(piece)
                    if total > limit:
                        raise E2LLMError(
                            f"{name}: unpacked, it has more than {_size(limit)}, the most that is "
                            "read; split the file"
                        )


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.6g} MB" if num_bytes >= 10_000 else counted(num_bytes, "byte")


def max_bytes() -> int:
    """Return the most bytes of a file, and of what is packed in it: `E2LLM_MAX_BYTES`, or 1 GB.

    Raises:
        E2LLMError: If the variable is not a whole number above 0.
    """
    text = os.environ.get(LIMIT_NAME, "") or str(MAX_BYTES)
    if not text.isdecimal() or not int(text):
        raise E2LLMError(f"{LIMIT_NAME} is {text!r}; set it to a whole number of bytes, or unset it")
    return int(text)


def check_size(num_bytes: int, name: str, limit: int) -> None:
    """Raise `E2LLMError` for a file of more than `limit` bytes."""
    if num_bytes > limit:
        raise E2LLMError(
            f"{name}: the file has more than {_size(limit)}, the most that is read; split the file"
        )
