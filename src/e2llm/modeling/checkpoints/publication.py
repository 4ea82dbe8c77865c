"""Replace the files of a checkpoint folder so that a crash at any moment leaves a complete checkpoint.

New files are written into a hidden folder inside the target. One rename of that folder is the moment at which
the new checkpoint holds; only then do its files take their places, and readers use the hidden folder until
all of them have.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from e2llm.files import sync

COMPLETE_NAME = ".e2llm-complete"
_STAGING_PREFIX = ".e2llm-saving-"


def complete_folder(folder: Path) -> Path:
    """Return the folder to read: `folder`, or the complete hidden one that an interrupted save left in it."""
    complete = folder / COMPLETE_NAME
    return complete if complete.is_dir() else folder


@contextmanager
def publishing(target: Path, owned: tuple[str, ...]) -> Iterator[Path]:
    """Yield a folder to write into; without an exception, its files then replace those of `target`.

    Args:
        target: The folder to publish to, made if need be. Other files in it stay.
        owned: Patterns (`Path.glob`) of files that belong to the checkpoint: those that are not written again
            go.
    """
    target.mkdir(parents=True, exist_ok=True)
    if complete_folder(target) != target:
        _finish(target, owned)
    for left_behind in target.glob(f"{_STAGING_PREFIX}*"):
        shutil.rmtree(left_behind, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(prefix=_STAGING_PREFIX, dir=target))
    try:
        yield staging
        for file in _files(staging):
            sync(file)
        os.rename(staging, target / COMPLETE_NAME)
        sync(target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    _finish(target, owned)


def _finish(target: Path, owned: tuple[str, ...]) -> None:
    """Move the files of the complete hidden folder into place; repeatable after a crash."""
    complete = target / COMPLETE_NAME
    new = {file.relative_to(complete) for file in _files(complete)}
    for stale in [file for pattern in owned for file in target.glob(pattern)]:
        if stale.relative_to(target) not in new:
            stale.unlink()
    for name in sorted(new):
        _place(complete / name, target / name)
    sync(target)
    done = Path(tempfile.mkdtemp(prefix=_STAGING_PREFIX, dir=target))
    os.rename(complete, done / complete.name)  # at once, so that no reader sees it half deleted
    shutil.rmtree(done)


def _place(source: Path, destination: Path) -> None:
    """Replace `destination` atomically by `source`, which stays until every file is in place."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    if destination.exists() and destination.samefile(source):
        return
    passing = destination.with_name(f".{destination.name}.new")
    passing.unlink(missing_ok=True)
    try:
        os.link(source, passing)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, passing)
        sync(passing)
    os.replace(passing, destination)


def _files(folder: Path) -> list[Path]:
    return [item for item in folder.rglob("*") if item.is_file()]
