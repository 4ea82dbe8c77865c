"""A measurement in a separate process, so that its memory is its own and a crash is a result, not an end."""

import json
import os
import subprocess
import sys
import tempfile
from types import TracebackType
from typing import Any, TextIO

import torch


class Worker:
    """A process that answers lines of JSON.

    Args:
        module: Module whose `main` answers.
        settings: The first line; the number of threads is added.
    """

    def __init__(self, module: str, settings: dict[str, Any]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(item for item in sys.path if item)},
        )
        try:
            self.started = self.ask({**settings, "num_threads": torch.get_num_threads()})
        except BaseException:
            self._process.kill()
            self._end()
            raise

    def ask(self, content: Any) -> dict[str, Any]:
        """Send a line and return the answer, or `{"error": ...}`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(content) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        return dict(json.loads(line)) if line else {"error": self._why_ended(self._process.wait())}

    def _why_ended(self, code: int) -> str:
        if code == -9:
            return "the process was killed, probably out of memory"
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"the process ended with {code}: {lines[-1][:300] if lines else 'it printed nothing'}"

    def _end(self) -> None:
        self._process.communicate()
        self._errors.close()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self._process.kill()
        self._end()


def open_replies() -> TextIO:
    """Return a stream for answers on standard output; what libraries print goes to standard error."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return replies


def reply(stream: TextIO, content: dict[str, Any]) -> None:
    """Send an answer."""
    print(json.dumps(content), file=stream, flush=True)


def failure(error: Exception) -> dict[str, Any]:
    """Return the error as an answer, on one line."""
    return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
