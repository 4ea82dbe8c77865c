"""What is wrong with a file, in one sentence each."""

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager

from e2llm.errors import E2LLMError

MAX_BYTES = 10**9
_PIECE_BYTES = 2**20
_ENCRYPTED = 1  # flag of a member of an archive


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


def check_archive(data: bytes, name: str, limit: int = MAX_BYTES) -> list[str]:
    """Read every member of a ZIP archive once, and return their names.

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
                            f"{name}: unpacked, it has more than {limit / 1e6:,.0f} MB, the most that is "
                            "read; split the file"
                        )
        return archive.namelist()


def check_size(num_bytes: int, name: str, limit: int = MAX_BYTES) -> None:
    """Raise `E2LLMError` for a file of more than `limit` bytes."""
    if num_bytes > limit:
        raise E2LLMError(
            f"{name}: the file has more than {limit / 1e6:,.0f} MB, the most that is read; split the file"
        )
