"""Write report.html and report.md of a run, from its scores.json and predictions.jsonl alone.

Where matplotlib is installed, plots are in both, and as PNG files in `plots/`.
"""

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from e2llm.evaluation.report import plots, tables
from e2llm.evaluation.report.readable import on_one_line, printable
from e2llm.evaluation.report.tables import Section
from e2llm.evaluation.run.files import Run, read_run
from e2llm.files import write_atomically

PLOTS_NAME = "plots"
NO_PLOTS = "There are no plots: matplotlib is not installed (pip install 'e2llm[train]')."

_MARKDOWN_SIGNS = re.compile(r"([\\`*_\[\]#|~$])")


@dataclass(frozen=True)
class Report:
    """What a report shows: a title, facts and notes below it, and sections."""

    title: str
    facts: dict[str, str]
    notes: Sequence[str]
    sections: Sequence[Section]

    def html(self) -> str:
        """Render one HTML page that loads nothing and runs nothing; texts of a run are shown as text."""
        environment = _environment(lambda value: printable(value) if type(value) is str else value)
        environment.filters["base64"] = lambda data: base64.b64encode(data).decode()
        return environment.get_template("report.html.jinja").render(vars(self))

    def markdown(self, plots_folder: str = PLOTS_NAME) -> str:
        """Render Markdown as GitHub shows it, with the plots in a folder relative to it."""
        environment = _environment(
            lambda value: value if isinstance(value, Markup) else Markup(escape_markdown(str(value)))
        )
        environment.filters["fenced"] = lambda text: Markup(fenced(text))
        environment.filters["html"] = lambda text: Markup(html.escape(on_one_line(text)))
        template = environment.get_template("report.md.jinja")
        return template.render(vars(self), plots=Markup(plots_folder))


def write_report(folder: Path) -> list[Path]:
    """Write the report of a finished run into its folder.

    Returns:
        The files written, report.html and report.md first.

    Raises:
        FileNotFoundError: If there is no such folder.
        E2LLMError: If it is not the folder of a finished run, or a file is damaged.
    """
    report = build_report(read_run(folder))
    contents = {"report.html": report.html().encode(), "report.md": report.markdown().encode()}
    for section in report.sections:
        contents |= {f"{PLOTS_NAME}/{found.name}.png": found.png for found in section.figures}
    for name, content in contents.items():
        write_atomically(folder / name, content)
    return [folder / name for name in contents]


def build_report(run: Run) -> Report:
    """Collect all sections that a run has something for, the most interesting first."""
    draws = plots.can_draw()
    cost = plots.cost_figure(run) if draws else None
    length = plots.length_figure(run) if draws else None
    soft_tokens = plots.soft_tokens_figure(run) if draws else None
    heat = plots.heat_figures(run) if draws else []
    sections = [
        tables.scores_section(run),
        Section("cost-plots", "Score against cost", figures=[cost] if cost else []),
        Section("length-plots", "Score against length", figures=[length] if length else []),
        Section("needles", "Needles by depth and length", figures=heat),
        tables.soft_tokens_section(run, soft_tokens),
        tables.breakdown_section(run),
        tables.cost_section(run),
        tables.tests_section(run),
        tables.examples_section(run),
        tables.provenance_section(run),
    ]
    notes = [*_refusals(run), *([] if draws else [NO_PLOTS])]
    return Report(
        "Evaluation report", _facts(run), notes, [found for found in sections if not found.is_empty]
    )


def escape_markdown(text: str) -> str:
    """Return text on one line that Markdown shows as it is, in a table's cell, too."""
    return html.escape(_MARKDOWN_SIGNS.sub(r"\\\1", on_one_line(text)), quote=False)


def fenced(text: str) -> str:
    """Return text as a code block; its fence is longer than any within."""
    text = printable(text)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"


def _environment(finalize: Any) -> Environment:
    return Environment(
        loader=PackageLoader("e2llm.evaluation.report"),
        autoescape=True,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _refusals(run: Run) -> list[str]:
    counts = {
        system: sum(row.num_refused for row in run.rows if row.system == system) for system in run.systems
    }
    parts = [f"{system} refused {count}" for system, count in counts.items() if count]
    if not parts:
        return []
    return [
        f"Refused items have no score and count in no mean: {', '.join(parts)}. The examples and "
        "predictions.jsonl have the reasons."
    ]


def _facts(run: Run) -> dict[str, str]:
    found = run.provenance
    budget = found.get("budget")
    facts = {
        "Model": found.get("model"),
        "Systems": len(run.systems),
        "Tasks": len(run.tasks),
        "Items": f"{len({(entry.task, entry.id) for entry in run.predictions}):,}",
        "Budget": f"{budget:,} decoder positions" if isinstance(budget, int) else "the decoder's window",
        "Seed": found.get("seed"),
        "Commit": str(found.get("commit") or "unknown")[:12],
        "Started": str(found.get("started") or "unknown").replace("T", " ", 1),
    }
    return {name: str(value) for name, value in facts.items() if value is not None}
