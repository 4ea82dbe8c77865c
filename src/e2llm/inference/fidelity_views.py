"""A fidelity report to look at: a strip of blocks for the terminal, and a picture."""

import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path

from e2llm.errors import E2LLMError, MissingExtraError
from e2llm.files import write_atomically
from e2llm.inference.fidelity import FidelityReport

SCALE = "scale: ▁ below 1/8, each block 1/8 more, █ 7/8 to 1"
_BLOCKS = "▁▂▃▄▅▆▇█"
_COLOURS = (196, 202, 208, 214, 184, 148, 112, 40)  # red to green in the 256-colour palette


def heat_strip(scores: Sequence[float], width: int, *, colour: bool = False) -> str:
    """One line of blocks from the first chunk to the last: the higher, the better kept.

    Args:
        scores: One per chunk, 0 to 1.
        width: Most blocks; with more chunks, each block is the mean of a run of them.
        colour: Colour the blocks from red (0) to green (1) by terminal codes.
    """
    width = max(1, min(width, len(scores)))
    cells = []
    for column in range(width):
        run = scores[column * len(scores) // width : (column + 1) * len(scores) // width]
        if not run:
            break
        level = min(len(_BLOCKS) - 1, max(0, int(sum(run) / len(run) * len(_BLOCKS))))
        cells.append(f"\x1b[38;5;{_COLOURS[level]}m{_BLOCKS[level]}" if colour else _BLOCKS[level])
    return "".join(cells) + ("\x1b[0m" if colour else "")


def check_picture(file: Path) -> None:
    """Raise for what would fail only after the measuring.

    Raises:
        MissingExtraError: If matplotlib is not installed.
        E2LLMError: If `file` is a folder.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib", "train")
    if file.is_dir():
        raise E2LLMError(f"{file} is a folder; name a file such as {file / 'fidelity.png'}")


def draw_fidelity(report: FidelityReport, file: Path, title: str) -> None:
    """Write a PNG: probability of the true text with and without soft tokens, numbers and names kept.

    Args:
        report: What to draw.
        file: The PNG, written whole or not at all.
        title: What was measured; stands in the heading.

    Raises:
        MissingExtraError: If matplotlib is not installed.
        E2LLMError: If `file` is a folder.
    """
    check_picture(file)
    from matplotlib.figure import Figure

    chunks = report.chunks
    places = [item.chunk for item in chunks]
    figure = Figure(figsize=(10, 5.5), layout="constrained")
    strip, lines, kept = figure.subplots(3, 1, height_ratios=[1, 3, 2])
    strip.imshow([[item.score for item in chunks]], aspect="auto", cmap="RdYlGn", vmin=0, vmax=1)
    strip.set_yticks([])
    strip.set_xticks([])
    level = f"{report.soft_tokens} soft token(s) per chunk"
    if report.rate is not None:
        level = f"rate {report.rate}"
    strip.set_title(
        f"{title}: {level}, mean score {report.mean_score:.3f}, gain {report.mean_gain:+.2f} nats per token"
    )
    lines.plot(places, [item.log_probability for item in chunks], ".-", label="with soft tokens")
    lines.plot(places, [item.baseline_log_probability for item in chunks], ".-", label="without")
    lines.set_ylabel("log-probability\nper token (nats)")
    lines.legend()
    for name, label in (("numbers_kept", "numbers"), ("names_kept", "names")):
        pairs = [(item.chunk, getattr(item, name)) for item in chunks if getattr(item, name) is not None]
        kept.plot([place for place, _ in pairs], [value for _, value in pairs], ".", label=label)
    kept.set_ylim(-0.05, 1.05)
    kept.set_ylabel("share kept")
    kept.set_xlabel("chunk")
    kept.legend()
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    write_atomically(file, stream.getvalue())
