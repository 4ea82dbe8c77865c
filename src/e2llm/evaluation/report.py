"""The report of a run: report.html and report.md, from scores.json and predictions.jsonl alone.

Where matplotlib is installed, there are plots in both, and as PNG files in `plots/`.
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from e2llm.evaluation.report_blocks import Block, Figure, Paragraph, Report, Section, Subsection
from e2llm.evaluation.report_examples import examples_section
from e2llm.evaluation.report_heat import heat_maps, heat_table
from e2llm.evaluation.report_html import html_report
from e2llm.evaluation.report_markdown import markdown_report
from e2llm.evaluation.report_plots import can_draw, cost_figure, heat_figure, length_figure, rate_figure
from e2llm.evaluation.report_tables import (
    breakdown_section,
    cost_section,
    provenance_section,
    rate_section,
    scores_section,
    tests_section,
)
from e2llm.evaluation.run_files import Run, read_run
from e2llm.files import write_atomically

PLOTS_NAME = "plots"
NO_PLOTS = "There are no plots: matplotlib is not installed (pip install 'e2llm[train]')."

_NO_NAME = re.compile(r"[^a-z0-9]+")


def write_report(folder: Path) -> list[Path]:
    """Write report.md, report.html and, where matplotlib is installed, `plots/*.png` into a run's folder.

    The same two files give the same report. Answers, prompts and names are shown as text, whatever stands in
    them.

    Args:
        folder: Holds scores.json and predictions.jsonl of a finished run.

    Returns:
        The files written, the reports first.

    Raises:
        FileNotFoundError: If there is no such folder.
        E2LLMError: If it is not the folder of a finished run, or a file is damaged.
    """
    folder = Path(folder)
    report = build_report(read_run(folder))
    files = [folder / "report.html", folder / "report.md"]
    for section in report.sections:
        for block in section.blocks:
            if isinstance(block, Figure):
                files.append(folder / PLOTS_NAME / f"{block.name}.png")
                write_atomically(files[-1], block.png)
    write_atomically(files[0], html_report(report).encode())
    write_atomically(files[1], markdown_report(report, PLOTS_NAME).encode())
    return files


def build_report(run: Run) -> Report:
    """All that there is to say of a run, in the order of interest."""
    draws = can_draw()
    sections = [
        scores_section(run),
        _figure_section("cost-plots", "Score against cost", cost_figure(run) if draws else None),
        _figure_section("length-plots", "Score against length", length_figure(run) if draws else None),
        needles_section(run, draws=draws),
        rate_section(run, _some(rate_figure(run) if draws else None)),
        breakdown_section(run),
        cost_section(run),
        tests_section(run),
        examples_section(run),
        provenance_section(run),
    ]
    notes = [*run.notes, *_refusals(run)] + ([] if draws else [NO_PLOTS])
    found = tuple(section for section in sections if section is not None)
    return Report("Evaluation report", _facts(run), tuple(notes), found)


def needles_section(run: Run, *, draws: bool) -> Section | None:
    """Heat maps of the tasks whose items lie at a depth in a length."""
    text = (
        "Each cell is the mean score of the items with this depth (rows, from the beginning of the text to "
        "its end) and length (columns, in decoder tokens). Yellow is the best, dark blue the worst."
    )
    blocks: list[Block] = []
    for task, maps in heat_maps(run).items():
        blocks.append(Subsection(f"{task} ({maps[0].metric})"))
        if draws:
            blocks.append(heat_figure(maps, f"heat-{file_name(task)}"))
        blocks += [heat_table(found) for found in maps]
    return Section("needles", "Needles by depth and length", (Paragraph(text), *blocks)) if blocks else None


def file_name(task: str) -> str:
    """A task's name as part of a file's: letters, digits and dashes, and a hash where that changes it."""
    plain = _NO_NAME.sub("-", task.lower()).strip("-")[:48]
    if plain == task.replace("_", "-"):
        return plain
    return f"{plain}-{hashlib.sha256(task.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}".strip("-")


def _figure_section(name: str, title: str, figure: Figure | None) -> Section | None:
    return None if figure is None else Section(name, title, (figure,))


def _some(figure: Figure | None) -> Sequence[Block]:
    return () if figure is None else (figure,)


def _refusals(run: Run) -> list[str]:
    """Who refused how many items, in one sentence."""
    counts = {
        system: sum(row.num_refused for row in run.rows if row.system == system) for system in run.systems
    }
    parts = [f"{system} refused {count}" for system, count in counts.items() if count]
    if not parts:
        return []
    return [
        f"Refused items have no score and are in no mean: {', '.join(parts)}. The reasons stand in the "
        "examples and in predictions.jsonl."
    ]


def _facts(run: Run) -> tuple[tuple[str, str], ...]:
    """What stands below the title."""
    found: dict[str, Any] = dict(run.provenance)
    num_items = len({(entry.task, entry.id) for entry in run.predictions})
    budget = found.get("budget")
    facts = {
        "Model": found.get("model"),
        "Systems": len(run.systems),
        "Tasks": len(run.tasks),
        "Items": f"{num_items:,}",
        "Budget": f"{budget:,} decoder positions" if isinstance(budget, int) else "the decoder's window",
        "Seed": found.get("seed"),
        "Commit": str(found.get("commit") or "unknown")[:12],
        "Started": str(found.get("started") or "unknown").replace("T", " ", 1),
    }
    return tuple((name, str(value)) for name, value in facts.items() if value is not None)
