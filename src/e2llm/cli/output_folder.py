"""Write an output folder atomically: it appears complete, or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from e2llm.errors import E2LLMError


def check_new(output: Path) -> None:
    """Raise `E2LLMError` if the output exists and is not an empty folder."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise E2LLMError(f"{output} exists and is not an empty folder; choose another one")


@contextmanager
def appearing(output: Path) -> Iterator[Path]:
    """Yield a temporary folder to write to; rename it to `output` if the block ends without an error."""
    target = output.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent)
    except OSError as error:  # it names the temporary folder, which the user does not know
        raise OSError(error.errno, error.strerror, str(output)) from error
    with beside as temporary:
        staging = Path(temporary) / "model"
        yield staging
        os.replace(staging, target)


def folder_bytes(folder: Path) -> int:
    """Return the total size of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
