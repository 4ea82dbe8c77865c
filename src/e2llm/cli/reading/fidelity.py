"""`e2llm fidelity`: how well each chunk survived compression."""

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from e2llm.cli.opening import check_inputs, load_engine, open_context, read_source
from e2llm.cli.options import FILES_HELP, AsJson, Device, Model, RateText, SoftTokens, level_name, take_rate
from e2llm.cli.printing import echo, print_json
from e2llm.messages import counted

if TYPE_CHECKING:
    from e2llm.inference.context import Context
    from e2llm.inference.fidelity import FidelityReport

_NUM_WORST = 3


def fidelity(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help=FILES_HELP + ".")],
    model: Model = "smol",
    soft_tokens: SoftTokens = None,
    rate: RateText = None,
    sample: Annotated[int | None, typer.Option(min=1, help="Measure only N chunks, evenly spread.")] = None,
    png: Annotated[Path | None, typer.Option(help="Draw the scores into this file.")] = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Measure how well the decoder can restate each chunk from its soft tokens.

    Example:
        e2llm fidelity examples/anne_of_green_gables.txt --sample 100 --png fidelity.png
    """
    if png is not None and png.is_file() and png.suffix.lower() != ".png":
        raise typer.BadParameter(f"{png} exists and is not a .png file; choose another name")
    check_inputs(files, model)
    if png is not None:
        from e2llm.inference.fidelity import check_picture, draw_fidelity

        check_picture(png)
    wanted_rate = take_rate(rate)
    source = read_source(files)
    engine = load_engine(model, device)
    context = open_context(engine, source)
    indices = None
    if sample is not None and sample < len(context):
        indices = [place * len(context) // sample for place in range(sample)]
    report = engine.fidelity(context, soft_tokens=soft_tokens, rate=wanted_rate, chunks=indices)
    if png is not None:
        draw_fidelity(report, png, f"{model} on {name_sources(context.sources)}")
    if as_json:
        print_json(report.to_dict())
        return
    show(report, context)


def name_sources(sources: list[str]) -> str:
    """Return the documents' file names, or their number if there are more than three."""
    names = list(dict.fromkeys(Path(name).name for name in sources))
    return ", ".join(names) if len(names) <= 3 else f"{len(names)} documents"


def show(report: "FidelityReport", context: "Context") -> None:
    """Print the strip, the means and the worst chunks."""
    from e2llm.inference.fidelity import SCALE, heat_strip

    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 80
    echo(heat_strip([item.score for item in report.chunks], width, colour=colour), has_colours=True)
    echo(SCALE)
    echo(
        f"{counted(len(report.chunks), 'chunk')} at {level_name(report.soft_tokens, report.rate)}: mean "
        f"score {report.mean_score:.3f} (of 1), {report.mean_gain:+.2f} nats per token by the soft tokens"
    )
    for name in ("numbers_kept", "names_kept"):
        values = [getattr(item, name) for item in report.chunks if getattr(item, name) is not None]
        if values:
            label, chunks = name.replace("_", " "), counted(len(values), "chunk")
            echo(f"{label}: {sum(values) / len(values):.0%} in {chunks} with any")
    for item in report.worst(_NUM_WORST):
        words = " ".join(context.chunks[item.chunk].text.split())[:60]
        echo(f"  {item.score:.3f}  chunk {item.chunk} of {item.source} [{item.start}:{item.end}] {words}")
