"""`e2llm ask`: answer a question about files of any length."""

import dataclasses
import os
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated, Any

import typer

from e2llm.cli.opening import check_inputs, facts_of, load_engine, open_context, read_source
from e2llm.cli.options import (
    FILES_HELP,
    AsJson,
    Device,
    Model,
    NewTokens,
    RateText,
    SoftTokens,
    Store,
    take_rate,
)
from e2llm.cli.printing import echo, print_json
from e2llm.errors import E2LLMError
from e2llm.messages import counted

if TYPE_CHECKING:
    from e2llm.bench.full_context import Comparison
    from e2llm.documents import Document, LeftOut
    from e2llm.inference.answer import Answer
    from e2llm.inference.engine import Engine


Expand = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Give exactly the N most relevant chunks as text; 0 gives soft tokens alone.",
    ),
]
Budget = Annotated[
    int | None, typer.Option(min=1, help="Most decoder positions of the input; by default 2,048.")
]
PolicyText = Annotated[
    str | None,
    typer.Option(
        "--policy",
        metavar="NAME",
        help="How to spend the budget: mixed (relevant chunks as text, the rest as soft tokens), raw (text "
        "alone), soft (soft tokens alone), or uniform (all chunks alike).",
    ),
]
Select = Annotated[str, typer.Option(help="How to rank chunks: bm25, encoder, or fused (both).")]
Overflow = Annotated[
    str,
    typer.Option(help="If the chunks do not fit at --rate: error, or select (leave some out)."),
]
Refine = Annotated[
    int, typer.Option(min=0, max=3, help="Answer again, up to N times, with soft sources given as text.")
]
Compare = Annotated[bool, typer.Option("--compare", help="Also answer from the full text; compare costs.")]


def ask(
    arguments: Annotated[
        list[str],
        typer.Argument(metavar="FILE... QUESTION", help=f"{FILES_HELP}; then the question."),
    ],
    model: Model = "smol",
    soft_tokens: SoftTokens = None,
    rate: RateText = None,
    expand: Expand = None,
    budget: Budget = None,
    policy: PolicyText = None,
    select: Select = "bm25",
    overflow: Overflow = "error",
    max_new_tokens: NewTokens = 64,
    store: Store = None,
    device: Device = None,
    refine: Refine = 0,
    compare: Compare = False,
    as_json: AsJson = False,
) -> None:
    """Answer a question about files of any length.

    Examples:
        e2llm ask examples/anne_of_green_gables.txt "Who is Anne's best friend?"

        e2llm ask src/ "Where is the store opened?" --expand 3 --store ~/.cache/e2llm

        cat notes.txt | e2llm ask - "What is due on Friday?" --json
    """
    paths, question = split_arguments(arguments)
    check_inputs(paths, model)
    from e2llm.inference.options import AskRequest

    options: dict[str, Any] = {
        "soft_tokens": soft_tokens,
        "rate": take_rate(rate),
        "expand": expand,
        "budget": budget,
        "policy": policy,
        "select": select,
        "overflow": overflow,
        "max_new_tokens": max_new_tokens,
        "refine": refine,
    }
    request = AskRequest.take(question, dict(options))
    left_out: list[LeftOut] = []
    source = read_source(paths, left_out)
    if compare and isinstance(source, Path):
        raise typer.BadParameter("--compare needs texts, because it measures reading; got a saved context")
    engine = load_engine(model, device, store)
    if not isinstance(source, Path):
        engine.check_room(source, request)
    options["on_piece"] = None if as_json else print_piece
    answer, comparison = answer_from(engine, source, question, options, compare=compare)
    show_answer(answer, comparison, isinstance(source, Path), as_json, left_out)
    if not as_json and not answer.text.strip():
        raise E2LLMError("the answer is empty; give more chunks as text: raise --budget or --expand")


def answer_from(
    engine: "Engine",
    source: "list[Document] | Path",
    question: str,
    options: dict[str, Any],
    *,
    compare: bool,
) -> "tuple[Answer, Comparison | None]":
    """Return the answer and, with `compare`, the comparison with full context."""
    if compare:
        from e2llm.bench.full_context import compare_with_full_context

        comparison = compare_with_full_context(engine, source, question, **options)
        return comparison.e2llm.answer, comparison
    return engine.ask(open_context(engine, source), question, **options), None


def split_arguments(arguments: list[str]) -> tuple[list[str], str]:
    """Split the arguments into the paths and the question, which comes last."""
    if len(arguments) < 2:
        raise typer.BadParameter("give at least one file, then the question")
    *paths, question = arguments
    if os.path.exists(question):
        kind = "folder" if os.path.isdir(question) else "file"
        raise typer.BadParameter(f"the last argument, {question!r}, is a {kind}; give the question last")
    return paths, question


def show_answer(
    answer: "Answer",
    comparison: "Comparison | None",
    read_earlier: bool,
    as_json: bool,
    left_out: "list[LeftOut]",
) -> None:
    """Print the answer as JSON, or the sources and cost of an answer that was already streamed."""
    if as_json:
        result = dataclasses.asdict(answer) | facts_of(left_out)
        if comparison is not None:
            result["peak_extra_bytes"] = comparison.e2llm.peak_extra_bytes
            result["full_context"] = comparison.full_context.to_dict()
        print_json(result)
        return
    echo()
    for number, source in enumerate(answer.sources[:3], start=1):
        echo(f"[{number}] {source}: {shorten(source.text, 80, placeholder='...')}", err=True)
    echo(cost_line(answer, read_earlier=read_earlier), err=True)
    if comparison is not None:
        from e2llm.bench.full_context import format_comparison

        echo(format_comparison(comparison))


def print_piece(piece: str) -> None:
    """Print a piece of an answer without a line break."""
    echo(piece, nl=False)


def cost_line(answer: "Answer", read_earlier: bool = False) -> str:
    """Return one line with the cost of an answer; `read_earlier` is for a saved context."""
    usage, timing = answer.usage, answer.timing
    first = "" if timing.first_token_seconds is None else f", first token {timing.first_token_seconds:.2f} s"
    read = f"read {'earlier in ' if read_earlier else ''}{timing.read_seconds:.1f} s"
    seconds = f"{read}{first}, answer {timing.total_seconds:.2f} s"
    chunks = counted(usage.chunks, "chunk")
    raw = f" and {counted(len(answer.expanded), 'chunk')} as text" if answer.expanded else ""
    left_out = f", {counted(answer.left_out, 'chunk')} left out" if answer.left_out else ""
    rate = "" if usage.rate is None or not usage.soft_tokens else f" (rate {usage.rate})"
    return (
        f"[{counted(usage.context_tokens, 'token')} in {chunks} as "
        f"{counted(usage.soft_tokens, 'soft token')}{rate}{raw}{left_out} "
        f"({usage.compression:g}x); {seconds}]"
    )
