"""`e2llm restate`: show chunks as the decoder restates them from their soft tokens."""

from typing import Annotated

import typer

from e2llm.cli.opening import check_inputs, load_engine, open_context, read_source
from e2llm.cli.options import FILES_HELP, AsJson, Device, Model, RateText, SoftTokens, take_rate
from e2llm.cli.printing import echo, print_json


def restate(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help=FILES_HELP + ".")],
    chunk: Annotated[list[int], typer.Option(min=0, help="Index of a chunk; may be repeated.")],
    model: Model = "smol",
    soft_tokens: SoftTokens = None,
    rate: RateText = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Let the decoder restate chunks from their soft tokens alone, and show them beside their text.

    Example:
        e2llm restate examples/anne_of_green_gables.txt --chunk 3
    """
    check_inputs(files, model)
    wanted_rate = take_rate(rate)
    source = read_source(files)
    engine = load_engine(model, device)
    context = open_context(engine, source)
    texts = engine.restate(context, chunk, soft_tokens=soft_tokens, rate=wanted_rate)
    rows = [
        {
            "chunk": index,
            "source": context.sources[index],
            "span": [context.chunks[index].start, context.chunks[index].end],
            "text": context.chunks[index].text,
            "restated": text,
        }
        for index, text in zip(chunk, texts, strict=True)
    ]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        echo(f"chunk {row['chunk']} of {row['source']}, characters {row['span']}")
        echo(f"  text:     {' '.join(str(row['text']).split())}")
        echo(f"  restated: {' '.join(str(row['restated']).split())}")
