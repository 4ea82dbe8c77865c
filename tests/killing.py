"""Real processes of `e2llm` to which a signal comes at a known place: a function's n-th call."""

import os
import subprocess
import sys
from pathlib import Path
from signal import Signals

SOURCE = Path(__file__).parents[1] / "src"
# Of what a stream would write then, the first half reaches the file.
_CODE = """
import importlib, os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background ignores it
number, module, name, count, *arguments = sys.argv[1:]
owner = importlib.import_module(module)
while "." in name:
    first, _, name = name.partition(".")
    owner = getattr(owner, first)
function, calls = getattr(owner, name), []

def struck(*args, **kwargs):
    calls.append(1)
    if len(calls) == int(count):
        if name == "add":
            import dataclasses, json
            line = json.dumps(dataclasses.asdict(args[1])).encode()
            args[0]._stream.write(line[: len(line) // 2])
            args[0]._stream.flush()
        os.kill(os.getpid(), int(number))
    return function(*args, **kwargs)

setattr(owner, name, struck)
from e2llm.cli.main import entry_point
sys.exit(entry_point(arguments))
"""


def run_struck(
    signal: Signals, moment: tuple[str, str, int], *arguments: object
) -> subprocess.CompletedProcess[str]:
    """Run a command that sends itself a signal.

    Args:
        signal: Such as SIGKILL.
        moment: A module, the name of a function in it, and which of its calls.
        arguments: Of the command line.
    """
    return subprocess.run(
        [sys.executable, "-c", _CODE, str(int(signal)), *map(str, moment), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
