"""`e2llm chat`: a conversation of any length, about files or anything else."""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from e2llm.cli.opening import (
    check_inputs,
    facts_of,
    keep_as_saved,
    load_engine,
    open_context,
    read_documents,
    read_source,
)
from e2llm.cli.options import FILES_HELP, AsJson, Device, Model, RateText, SoftTokens, Store, take_rate
from e2llm.cli.printing import echo, print_json
from e2llm.cli.reading.ask import print_piece
from e2llm.cli.reading.read import refuse_other_file
from e2llm.messages import counted

if TYPE_CHECKING:
    from e2llm.documents import LeftOut
    from e2llm.inference.chat import ChatSession

_COMMANDS = "/add FILE..., /save FILE, /quit"


def chat(
    files: Annotated[
        list[str] | None, typer.Argument(metavar="[FILE...]", help=f"What to talk about: {FILES_HELP}.")
    ] = None,
    session: Annotated[
        Path | None,
        typer.Option(help="Continue the session in this file, and save it there after each turn."),
    ] = None,
    model: Model = "smol",
    soft_tokens: SoftTokens = None,
    rate: RateText = None,
    expand: Annotated[
        int | None,
        typer.Option(min=0, help="Give exactly the N most relevant chunks as text."),
    ] = None,
    store: Store = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Chat about files, or about anything; each line of standard input is a turn.

    Old turns are compressed, so a conversation may have any length. Lines that begin with / are commands:
    /add FILE..., /save FILE, /quit.

    Example:
        e2llm chat examples/anne_of_green_gables.txt --session anne.e2llm
    """
    check_inputs(files or [], model)
    from e2llm.errors import E2LLMError
    from e2llm.inference.chat import ChatSession
    from e2llm.inference.context_file import is_tensor_file

    options: dict[str, Any] = {
        "expand": expand,
        "soft_tokens": soft_tokens,
        "rate": take_rate(rate),
        "max_new_tokens": 128,
    }
    left_out: list[LeftOut] = []
    source = read_source(files, left_out) if files else []
    if session is not None and session.is_dir():
        raise typer.BadParameter(f"{session} is a folder; name a file such as {session / 'chat.e2llm'}")
    if session is not None and session.is_file() and not is_tensor_file(session):
        raise E2LLMError(f"{session} is not a saved session; name a saved session or a new file")
    engine = load_engine(model, device, store)
    if session is not None and session.is_file():
        keep_as_saved(engine, session)
        talk = ChatSession.load(session, engine, **options)
        if isinstance(source, Path):
            raise typer.BadParameter(
                "FILE is a saved context, but --session continues a saved session; give texts as FILE"
            )
        known = {(document.name, document.text) for document in talk.context.documents}
        fresh = [item for item in source if (item.name, item.text) not in known]
        if fresh:
            talk.add(fresh)
    else:
        context = open_context(engine, source) if source else None
        talk = ChatSession(engine, context, **options)
    converse(talk, session, as_json, left_out)


def converse(talk: "ChatSession", session: Path | None, as_json: bool, left_out: "list[LeftOut]") -> None:
    """Answer each line of standard input until it ends or `/quit`."""
    from e2llm.errors import E2LLMError
    from e2llm.file_bytes import decode_text

    is_terminal = sys.stdin.isatty()
    if is_terminal:
        turns = counted(len(talk.turns), "turn")
        echo(f"{talk.context!r}, {turns} so far. Commands: {_COMMANDS}", err=True)
    while True:
        if is_terminal:
            echo("> ", nl=False, err=True)
        data = sys.stdin.buffer.readline()
        if not data:
            return
        try:
            line = decode_text(data, "this line").strip()
        except E2LLMError as error:
            echo(f"error: {error}", err=True)  # the next line may be sound
            continue
        if not line:
            continue
        if line == "/quit":
            return
        try:
            if line.startswith("/"):
                run_command(talk, line, left_out)
            elif as_json:
                print_json(dataclasses.asdict(talk.ask(line)) | facts_of(left_out), indent=None)
            else:
                for piece in talk.stream(line):
                    print_piece(piece)
                echo()
            sys.stdout.flush()
        except (E2LLMError, OSError, typer.BadParameter) as error:
            if not is_terminal or isinstance(error, BrokenPipeError):  # nobody reads the answers any more
                raise
            echo(f"error: {error}", err=True)  # the conversation continues
        finally:  # an interrupt must not lose earlier turns
            if session is not None:
                talk.save(session)


def run_command(talk: "ChatSession", line: str, left_out: "list[LeftOut]") -> None:
    """Run a line that begins with a slash."""
    import shlex

    from e2llm.errors import E2LLMError

    try:
        name, *arguments = shlex.split(line)
    except ValueError as error:
        raise E2LLMError(f"{line}: {error}") from error
    if name == "/add" and arguments:
        count = talk.add(read_documents(arguments, left_out))
        echo(f"added {counted(len(arguments), 'source')}, {counted(count, 'chunk')} encoded", err=True)
    elif name == "/save" and len(arguments) == 1:
        refuse_other_file(Path(arguments[0]))
        talk.save(arguments[0])
        echo(f"saved to {arguments[0]}", err=True)
    else:
        raise E2LLMError(f"{line!r} is not a command; use one of: {_COMMANDS}")
