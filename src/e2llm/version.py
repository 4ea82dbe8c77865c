"""The version, and the commit of the source tree."""

import subprocess
from pathlib import Path

__version__ = "0.1.0"


def git_commit() -> str | None:
    """Return the commit of the source tree, or None if e2llm does not run from one."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
