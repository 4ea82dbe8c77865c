"""Files that appear whole or not at all: written beside their place, synced, and renamed into it."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from e2llm.errors import E2LLMError

FULL_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # also a quota, and a limit on one file


@contextmanager
def replacing(file: Path) -> Iterator[BinaryIO]:
    """Give a stream of bytes that takes the place of `file` at the end, or of nothing after an exception.

    The folder is made if need be. The file gets the permissions that the user's umask gives new files. Of a
    link, the file that it leads to is replaced.

    Raises:
        OSError: If it cannot be written, with its name.
        E2LLMError: If the place is a folder, a device or the like, or the name cannot be one of a file.
    """
    try:
        target = Path(os.path.realpath(file))
        if target.exists() and not target.is_file():
            kind = "a folder" if target.is_dir() else "a device or the like"
            raise E2LLMError(f"{file} is {kind}; name a file")
    except (ValueError, OSError) as error:
        if isinstance(error, E2LLMError):
            raise
        raise E2LLMError(f"{str(file)!r} cannot be written to: {error}") from error
    file = target
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{file.name[:32]}.", dir=file.parent)
    except OSError as error:  # it would name the file beside, which nobody knows
        raise OSError(error.errno, error.strerror, str(file)) from error
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, file)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None and error.filename in (None, temporary):
            raise OSError(error.errno, error.strerror, str(file)) from error
        raise


def write_atomically(file: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with replacing(file) as stream:
        stream.write(content)


def put_between(document: str, begin: str, end: str, content: str) -> str:
    """The document with `content` between its two marks, in the place of what stood there.

    Args:
        document: The text of a document, with each mark in a line of its own.
        begin: The mark before the content.
        end: The mark after it.
        content: What to put there.

    Raises:
        E2LLMError: If the document lacks a mark.
    """
    before, found, rest = document.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise E2LLMError(f"the document lacks the lines {begin} and {end}")
    return f"{before}{begin}\n\n{content}\n{end}{after}"


def sync(path: Path) -> None:
    """Have a file or a folder, which must exist, written to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
