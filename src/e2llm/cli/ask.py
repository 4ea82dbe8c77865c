"""`e2llm ask`: answer a question about files of any length."""

import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from e2llm.inference.documents import Document
    from e2llm.inference.engine import Answer

MODEL_HELP = "Folder, hub id, or 'mini', the embedded model."


def ask(
    arguments: Annotated[
        list[str], typer.Argument(metavar="FILE... QUESTION", help="Files or folders ('-' reads stdin), then the question.")
    ],
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = "mini",
    soft_tokens: Annotated[
        int | None, typer.Option(min=1, help="Soft tokens per chunk; by default as many as the window takes.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 64,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; by default a GPU if there is one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print answer, usage and timing as JSON.")] = False,
) -> None:
    """Answer a question about files of any length.

    Example:
        e2llm ask examples/anne_of_green_gables.txt "Who is Anne's best friend?"
    """
    if len(arguments) < 2:
        raise typer.BadParameter("give at least one file and, last, the question")
    *paths, question = arguments
    documents = read_documents(paths)
    engine = load_engine(model, device)
    context = engine.read(documents)
    streamer = None if as_json else terminal_streamer(engine.processor.tokenizer)
    answer = engine.ask(
        context, question, soft_tokens=soft_tokens, max_new_tokens=max_new_tokens, streamer=streamer
    )
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(answer), indent=2, ensure_ascii=False))
    else:
        typer.echo(cost_line(answer), err=True)


def read_documents(paths: list[str]) -> "list[Document]":
    """Read files and folders; `-` is standard input."""
    from e2llm.errors import E2LLMError
    from e2llm.inference.documents import Document, load_documents

    documents = []
    for path in paths:
        if path != "-":
            documents += load_documents([path])
            continue
        try:
            text = sys.stdin.buffer.read().decode("utf-8")
        except UnicodeDecodeError as error:
            raise E2LLMError(f"standard input: byte {error.start} is not valid UTF-8") from error
        if not text.strip():
            raise E2LLMError("standard input is empty; there is nothing to read")
        documents.append(Document("stdin", text))
    return documents


def load_engine(model: str, device: str | None) -> Any:
    """Load an engine."""
    from e2llm.inference.engine import Engine

    return Engine.from_pretrained(model, device=device)


def terminal_streamer(tokenizer: Any) -> Any:
    """A streamer that writes words to stdout as they come."""
    from transformers import TextStreamer

    class Printer(TextStreamer):  # type: ignore[misc]
        begun = False

        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            text = text if self.begun else text.lstrip()
            self.begun = self.begun or bool(text)
            print(text, end="\n" if stream_end else "", flush=True)

    return Printer(tokenizer, skip_prompt=True, skip_special_tokens=True)


def cost_line(answer: "Answer") -> str:
    """One line of what an answer took."""
    usage, timing = answer.usage, answer.timing
    first = "" if timing.first_token_seconds is None else f", first token {timing.first_token_seconds:.2f} s"
    return (
        f"[{usage.context_tokens:,} tokens in {usage.chunks:,} chunks as {usage.soft_tokens:,} soft tokens "
        f"({usage.compression:g}x); read {timing.read_seconds:.1f} s{first}, answer {timing.total_seconds:.2f} s]"
    )
