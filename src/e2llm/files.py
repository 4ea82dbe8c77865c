"""Write files whole or not at all: to a temporary file in the same folder, synced and renamed."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from e2llm.errors import E2LLMError

FULL_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # also a quota, and a limit on one file


def check_folder_place(folder: Path) -> None:
    """Raise `E2LLMError` if a file has the name of a folder that is to be written, or of one above it."""
    taken = next((place for place in (folder, *folder.parents) if place.is_file()), None)
    if taken is not None:
        raise E2LLMError(f"{taken} is a file, but a folder of that name is needed; name another output")


@contextmanager
def replacing(file: Path) -> Iterator[BinaryIO]:
    """Give a stream of bytes that replaces `file` at the end, unless there is an exception.

    The folder is created if it does not exist. The file gets the permissions of the user's umask. For a link,
    its target is replaced.

    Raises:
        OSError: If the file cannot be written, with its name.
        E2LLMError: If the path is a folder or a device, or is invalid.
    """
    try:
        target = Path(os.path.realpath(file))
        if target.exists() and not target.is_file():
            raise E2LLMError(f"{file} is {'a folder' if target.is_dir() else 'a device'}; name a file")
    except (ValueError, OSError) as error:
        if isinstance(error, E2LLMError):
            raise
        raise E2LLMError(f"{str(file)!r} cannot be written to: {error}") from error
    file = target
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{file.name[:32]}.", dir=file.parent)
    except OSError as error:  # it would name the temporary file
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
    """Return the document with `content` between its two marks, instead of what was there.

    Args:
        document: The text of a document, with each mark on a separate line.
        begin: The mark before the content.
        end: The mark after it.
        content: What to put there.

    Raises:
        E2LLMError: If the document lacks a mark.
    """
    before, found, rest = document.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise E2LLMError(f"the document lacks the line {begin} or {end}; add both")
    return f"{before}{begin}\n\n{content}\n{end}{after}"


def sync(path: Path) -> None:
    """Flush a file or a folder, which must exist, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
