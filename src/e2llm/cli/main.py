"""`e2llm`: the command line; each command lives in a file of its own and loads what it needs when it runs."""

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from e2llm.cli.ask import ask
from e2llm.cli.bench import app as bench
from e2llm.cli.chat import chat
from e2llm.cli.evaluate import evaluate
from e2llm.cli.export import export
from e2llm.cli.fidelity import fidelity
from e2llm.cli.info import info
from e2llm.cli.join import join
from e2llm.cli.prepare import prepare
from e2llm.cli.read import read
from e2llm.cli.realign import realign
from e2llm.cli.restate import restate
from e2llm.cli.serve import serve
from e2llm.cli.store import app as store
from e2llm.cli.train import train
from e2llm.cli.write_errors import write_problem
from e2llm.errors import E2LLMError, E2LLMWarning
from e2llm.version import __version__

app = typer.Typer(
    help="Long contexts for any decoder LLM: read once as soft tokens, ask often.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and stop."),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")] = False,
) -> None:
    """Long contexts for any decoder LLM: read once as soft tokens, ask often."""


for command in (ask, chat, read, restate, fidelity, prepare, join, train, realign, serve, info, export):
    app.command()(command)
app.command("eval")(evaluate)
app.add_typer(store, name="store")
app.add_typer(bench, name="bench")


HOW_TO_GO_ON = {
    "train": "; go on with --resume",
    "eval": "; the same command goes on from there",
    "realign": "; begin again with another output",
}


def entry_point(argv: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0 when done; 1 with one line on stderr when the input is at fault; 2 for wrong usage; 130 when
        interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    # --debug may stand anywhere, also behind the command.
    arguments = [*(["--debug"] if debug else []), *(item for item in arguments if item != "--debug")]
    logging.getLogger("DeepSpeed").addFilter(errors_to_stderr)
    if not debug:
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it tells on import what it lacks
        quiet_libraries()
    try:
        with notes_on_stderr():
            result = app(arguments, prog_name="e2llm", standalone_mode=False)
        sys.stdout.flush()
        code = result if isinstance(result, int) else 0
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
        if not isinstance(error, E2LLMError) and (problem := write_problem(error)):
            return fail(problem, 1)
        if isinstance(error, OSError) and error.strerror and error.filename is not None:
            return fail(f"{error.filename}: {error.strerror}", 1)  # without a number
        if isinstance(error, ValueError | OSError | ImportError):
            return fail(str(error) or type(error).__name__, 1)
        return fail(f"unexpected {type(error).__name__}: {error}; run with --debug to see where", 1)
    if code == 130:
        command = next((item for item in arguments if not item.startswith("-")), "")
        return fail(f"interrupted; nothing is lost that was saved before{HOW_TO_GO_ON.get(command, '')}", 130)
    return code


def quiet_libraries() -> None:
    """Keep the notes and load reports of libraries off the terminal, and their progress bars out of pipes."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # each retry without a network would be a line
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("bm25s").propagate = False  # it sets its own level to debug on import
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


@contextlib.contextmanager
def notes_on_stderr() -> Iterator[None]:
    """Print what the package warns of as one line each on stderr while a command runs."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_note(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
            if issubclass(category, E2LLMWarning):
                print(f"[{message}]", file=sys.stderr, flush=True)
            else:
                show(message, category, *rest, **more)

        warnings.filterwarnings("always", category=E2LLMWarning)
        warnings.showwarning = show_note
        yield


def errors_to_stderr(record: logging.LogRecord) -> bool:
    """A filter for libraries that log to stdout, which belongs to results: errors go to stderr instead."""
    if record.levelno >= logging.ERROR:
        print(f"{record.name}: {record.getMessage()}", file=sys.stderr)
    return False


def leave_pipe() -> int:
    """Stop writing to a pipe that nobody reads any more, as `| head` leaves it; returns 0."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())  # type: ignore[union-attr]
    return 0


def fail_usage(error: Any, arguments: list[str]) -> int:
    """Print what is wrong with the arguments, what was got, and where the help is; returns 2."""
    message = error.format_message().rstrip(".")
    given = given_value(getattr(getattr(error, "param", None), "opts", []), arguments)
    if message.startswith("Invalid value for") and given is not None and repr(given) not in message:
        message += f", got {given!r}"
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "e2llm"
    return fail(f"{message} (see {command} --help)", 2) if message else 2


def given_value(names: list[str], arguments: list[str]) -> str | None:
    """What an option of these names was given, if it was."""
    given = None
    for argument, following in zip(arguments, [*arguments[1:], None], strict=False):
        name, equals, value = argument.partition("=")
        if name.startswith("-") and name in names:
            given = value if equals else following
    return given


def fail(message: str, code: int) -> int:
    """Print one line on stderr and return the exit code."""
    print(f"e2llm: error: {' '.join(message.split())}", file=sys.stderr)
    return code


def main() -> None:
    """Entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(
                errors="replace"
            )  # a terminal without UTF-8 shows ? in the place of a character
    sys.exit(entry_point())
