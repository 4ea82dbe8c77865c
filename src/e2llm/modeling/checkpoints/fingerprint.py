"""Hash files, so that a checkpoint can identify its base models and detect changed weights."""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

HASH_WHOLE_FILE_BYTES = 2**31
_SAMPLE_BYTES = 2**20


def fingerprint_of(files: Sequence[Path]) -> str:
    """Return a SHA-256 over weight files; for files of 2 GiB or more, over size and 65 samples of 1 MiB."""
    if len(files) == 1:
        return file_fingerprint(files[0])
    digest = hashlib.sha256()
    for file in files:
        _add_file(digest, file)
    return digest.hexdigest()


def file_fingerprint(file: Path) -> str:
    """Return `fingerprint_of` one file, cached until its size or modification time changes."""
    state = file.stat()
    return _fingerprint_at(file.resolve(), state.st_size, state.st_mtime_ns)


@lru_cache
def _fingerprint_at(file: Path, size: int, _: int) -> str:
    if size < HASH_WHOLE_FILE_BYTES:
        return file_hash(file)
    digest = hashlib.sha256()
    _add_file(digest, file)
    return digest.hexdigest()


def _add_file(digest: "hashlib._Hash", file: Path) -> None:
    """Add a weight file to a hash."""
    size = file.stat().st_size
    if size < HASH_WHOLE_FILE_BYTES:
        digest.update(bytes.fromhex(file_hash(file)))
        return
    digest.update(str(size).encode())
    with file.open("rb") as stream:
        for number in range(65):
            stream.seek(number * (size - _SAMPLE_BYTES) // 64)
            digest.update(stream.read(_SAMPLE_BYTES))


def file_hash(file: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def list_files(
    folder: Path, files: Iterable[Path], *, max_hashed_bytes: float = math.inf
) -> dict[str, dict[str, Any]]:
    """Return the sizes and hashes of files, for `changed_file` to compare later.

    Args:
        folder: What their names are relative to.
        files: The files, in any order.
        max_hashed_bytes: Files of this size or more are listed without a hash.

    Returns:
        `files`: name to size in bytes, and `sha256`: name to hash in hexadecimal digits.
    """
    named = {file.relative_to(folder).as_posix(): file for file in sorted(files)}
    sizes = {name: file.stat().st_size for name, file in named.items()}
    hashes = {name: file_hash(named[name]) for name, size in sizes.items() if size < max_hashed_bytes}
    return {"files": sizes, "sha256": hashes}


def changed_file(folder: Path, sizes: Mapping[str, int], hashes: Mapping[str, str]) -> str:
    """Describe the first file that is missing or changed; return an empty text if there is none.

    Args:
        folder: What the names are relative to.
        sizes: Size of each file, in bytes.
        hashes: SHA-256 of files, in hexadecimal digits; without a hash only the size is compared.
    """
    for name, size in sizes.items():  # check all sizes first, because hashing is slow
        if not (folder / name).is_file():
            return f"{name} is missing"
        if (found := (folder / name).stat().st_size) != size:
            return f"{name} has {found:,} bytes instead of {size:,}"
    for name in sizes:
        if name in hashes and file_hash(folder / name) != hashes[name]:
            return f"{name} has other content than was saved (another SHA-256)"
    return ""
