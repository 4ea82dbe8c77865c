"""Write an output folder atomically: it appears complete, or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from e2llm.errors import E2LLMError

_PREFIX, _STAGING, _LOCK = ".e2llm-writing-", "model", "in-use"


def check_new(output: Path) -> None:
    """Raise `E2LLMError` if the output exists and is not an empty folder."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise E2LLMError(f"{output} exists and is not an empty folder; choose another one")


@contextmanager
def appearing(output: Path) -> Iterator[Path]:
    """Yield a temporary folder to write to; rename it to `output` if the block ends without an error.

    A process that is killed leaves its temporary folder; the next one that writes beside it removes it.
    """
    target = output.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_left_behind(target.parent)
        beside = tempfile.TemporaryDirectory(prefix=_PREFIX, dir=target.parent)
    except OSError as error:  # it names the temporary folder, which the user does not know
        raise OSError(error.errno, error.strerror, str(output)) from error
    with beside as temporary, FileLock(Path(temporary) / _LOCK):
        staging = Path(temporary) / _STAGING
        staging.mkdir()  # after the lock: a folder with both, and no owner of the lock, is left behind
        yield staging
        os.replace(staging, target)


def remove_left_behind(folder: Path) -> None:
    """Remove temporary folders of `appearing` whose process is gone."""
    for staging in folder.glob(f"{_PREFIX}*/{_STAGING}"):
        lock = staging.parent / _LOCK
        if lock.is_file():
            with suppress(Timeout, OSError), FileLock(lock, blocking=False):
                shutil.rmtree(staging.parent, ignore_errors=True)


def folder_bytes(folder: Path) -> int:
    """Return the total size of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
