"""A measurement in a separate process, so that it has its own memory and its crash is a result."""

import os
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import torch


class Worker:
    """A process with an object whose methods are called from here; it has this process's number of threads.

    Args:
        make: Returns the object from `settings`; called in the process at the first `ask`.
        settings: Plain values.
    """

    def __init__(self, make: Callable[[Any], Any], settings: Any) -> None:
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        arguments = (theirs, torch.get_num_threads(), make, settings)
        self._process = context.Process(target=_run, args=arguments, daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, method: str, *arguments: Any) -> dict[str, Any]:
        """Return what a method of the object returns, or `{"error": ...}`."""
        try:
            self._pipe.send((method, arguments))
            return dict(self._pipe.recv())
        except (EOFError, OSError):
            self._process.join()
            return {"error": f"the process ended with {self._process.exitcode}, probably out of memory"}

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.join()


def _run(pipe: Connection, num_threads: int, make: Callable[[Any], Any], settings: Any) -> None:
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), 1)  # libraries print progress there, which is not part of a result
        os.dup2(nowhere.fileno(), 2)
    torch.set_num_threads(num_threads)
    target = None
    while True:
        try:
            method, arguments = pipe.recv()
        except EOFError:
            return
        try:
            target = make(settings) if target is None else target
            result = getattr(target, method)(*arguments)
        except Exception as error:  # the other measurements continue
            result = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        pipe.send(result)
