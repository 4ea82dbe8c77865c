"""The command line `e2llm`. Each command is one file and imports heavy libraries only when it runs."""

import contextlib
import errno
import io
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from e2llm.cli.bench import app as bench
from e2llm.cli.evaluate import evaluate_command
from e2llm.cli.export import export
from e2llm.cli.info import info
from e2llm.cli.printing import echo
from e2llm.cli.reading.ask import ask
from e2llm.cli.reading.chat import chat
from e2llm.cli.reading.fidelity import fidelity
from e2llm.cli.reading.read import read
from e2llm.cli.reading.restate import restate
from e2llm.cli.reading.store import app as store
from e2llm.cli.serve import serve
from e2llm.cli.training.join import join
from e2llm.cli.training.prepare import prepare
from e2llm.cli.training.realign import realign
from e2llm.cli.training.train import train
from e2llm.errors import E2LLMError, E2LLMWarning
from e2llm.files import FULL_DISK_ERRORS
from e2llm.version import __version__

app = typer.Typer(
    help="Give any decoder LLM a far longer context: read texts once, ask often.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(value: bool) -> None:
    if value:
        echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and stop."),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the full traceback of an error.")] = False,
) -> None:
    """Give any decoder LLM a far longer context: read texts once, ask often."""


for command in (ask, chat, read, restate, fidelity, prepare, join, train, realign, serve, info, export):
    app.command()(command)
app.command("eval")(evaluate_command)
app.add_typer(store, name="store")
app.add_typer(bench, name="bench")


HOW_TO_CONTINUE = {
    "train": "; continue with --resume",
    "eval": "; the same command continues the run",
    "realign": "; the same command continues the run",
}


def entry_point(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code.

    Returns:
        0 for success; 1 after a failure, with one line on stderr; 2 for wrong usage; 130 after an interrupt.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in given
    # --debug may be anywhere, also after the command.
    arguments = [*(["--debug"] if debug else []), *(item for item in given if item != "--debug")]
    logging.getLogger("DeepSpeed").addFilter(errors_to_stderr)
    if not debug:
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it lists missing parts on import
        quiet_libraries()
    try:
        with notes_on_stderr():
            result = app(arguments, prog_name="e2llm", standalone_mode=False)
        sys.stdout.flush()
        code = result if isinstance(result, int) else 0  # 130 where Typer caught an interrupt
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except (BrokenPipeError, SystemExit):
        # Typer turns a broken pipe into an exit; nothing else exits in there.
        return leave_pipe()
    except Exception as error:
        if hasattr(error, "exit_code") and hasattr(error, "format_message"):  # wrong usage
            return fail_usage(error, arguments)
        if debug:
            raise
        return fail(error_line(error), 1)
    if code == 130:
        command = next((item for item in arguments if not item.startswith("-")), "")
        advice = HOW_TO_CONTINUE.get(command, "")
        return fail(f"interrupted; everything saved so far is intact{advice}", 130)
    return code


def error_line(error: Exception) -> str:
    """Return the line that is shown for an error."""
    if not isinstance(error, E2LLMError) and (problem := write_problem(error)):
        return problem
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"  # without a number
    if isinstance(error, ValueError | OSError | ImportError):
        return str(error) or type(error).__name__
    return f"unexpected {type(error).__name__}: {error}; run with --debug to see where"


_REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM)
# Messages of a full disk from the libraries that write weights and states.
_FULL_TEXTS = (
    "No space left on device", "File too large", "Disk quota exceeded", "PytorchStreamWriter failed",
    "inline_container.cc", "unexpected pos",
)  # fmt: skip


def write_problem(error: BaseException) -> str | None:
    """Return one line if an error, or its cause, is a failed write; None for any other error."""
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        number, place = getattr(at, "errno", None), getattr(at, "filename", None)
        subject = f"{place}: " if place else ""
        if number in FULL_DISK_ERRORS or any(text in str(at) for text in _FULL_TEXTS):
            limit = ", or the file exceeds a limit on file sizes" if number == errno.EFBIG else ""
            return (
                f"{subject}the disk is full{limit}; free some space, or choose another place. Everything "
                "saved so far is intact"
            )
        if number in _REFUSED and place:
            reason = getattr(at, "strerror", None) or "not allowed"
            return f"{subject}{reason}; choose another place, or change the permissions"
        at = at.__cause__ or at.__context__
    return None


def quiet_libraries() -> None:
    """Keep messages of libraries off the terminal, and their progress bars out of pipes."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # else each retry without a network is a line
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


@contextlib.contextmanager
def notes_on_stderr() -> Iterator[None]:
    """Print each different warning of the package as one line on stderr while a command runs."""
    with warnings.catch_warnings():
        show = warnings.showwarning
        shown: set[str] = set()

        def show_note(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
            if issubclass(category, E2LLMWarning):
                if str(message) not in shown:
                    shown.add(str(message))
                    echo(f"[{message}]", err=True)
            else:
                show(message, category, *rest, **more)

        warnings.filterwarnings("always", category=E2LLMWarning)
        warnings.showwarning = show_note
        yield


def errors_to_stderr(record: logging.LogRecord) -> bool:
    """Drop a log record of a library that logs to stdout, but print errors on stderr."""
    if record.levelno >= logging.ERROR:
        echo(f"{record.name}: {record.getMessage()}", err=True)
    return False


def leave_pipe() -> int:
    """Stop writing to a closed pipe, such as after `| head`; return 0."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())  # type: ignore[union-attr]
    return 0


def fail_usage(error: Any, arguments: list[str]) -> int:
    """Print what is wrong with the arguments, the value received, and how to get help; return 2."""
    message = error.format_message().rstrip(".")
    given = given_value(getattr(getattr(error, "param", None), "opts", []), arguments)
    if message.startswith("Invalid value for") and given is not None and repr(given) not in message:
        message += f", got {given!r}"
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "e2llm"
    if message == "No such option: --device":
        message += "; this command uses a GPU if there is one; for the CPU, set CUDA_VISIBLE_DEVICES="
    return fail(f"{message} (see {command} --help)", 2) if message else 2


def given_value(names: list[str], arguments: list[str]) -> str | None:
    """Return the last value given to an option with one of these names, or None."""
    given = None
    for argument, following in zip(arguments, [*arguments[1:], None], strict=False):
        name, equals, value = argument.partition("=")
        if name.startswith("-") and name in names:
            given = value if equals else following
    return given


def fail(message: str, code: int) -> int:
    """Print one line on stderr and return the exit code."""
    echo(f"e2llm: error: {' '.join(message.split())}", err=True)
    return code


def main() -> None:
    """Run the console script `e2llm`."""
    sys.excepthook = lambda *error: echo("".join(traceback.format_exception(*error)), err=True, nl=False)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without UTF-8 shows ? instead of a character
    sys.exit(entry_point())
