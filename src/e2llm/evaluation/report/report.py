"""Write report.html and report.md of a run, from its scores.json and predictions.jsonl alone.

Where matplotlib is installed, plots are in both, and as PNG files in `plots/`.
"""

import base64
import html
import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from e2llm.evaluation.report.plots import Figure, cost_figure, heat_figures, length_figure
from e2llm.evaluation.report.readable import natural_key, on_one_line, printable, readable_score
from e2llm.evaluation.report.tables import (
    SIGNIFICANCE,
    Table,
    breakdown_tables,
    cost_table,
    pair_test_table,
    provenance_table,
    score_tables,
)
from e2llm.evaluation.run.predictions import Prediction
from e2llm.evaluation.run.scores import Run, read_run
from e2llm.files import write_atomically

PLOTS_NAME = "plots"
NO_PLOTS = "There are no plots: matplotlib is not installed (pip install 'e2llm[train]')."
NUM_EXAMPLES = 10
_MAX_CHARS = 4000  # of a prompt, an answer or a reference in the examples
_LEGEND = (
    "★ is the best mean of a task, ≈ a system that a paired test does not find significantly worse than "
    f"it (p ≥ {SIGNIFICANCE} after Holm's correction). Below each mean is its 95% interval."
)
_REFUSAL_LEGEND = " A mean with refused items covers the answered ones only: no mark if others answered more."
_MARKDOWN_SIGNS = re.compile(r"([\\`*_\[\]#|~$])")


@dataclass(frozen=True)
class Example:
    """An item of a task with the prediction of each system.

    Attributes:
        task: Name of the task.
        id: Name of the item, with its groups.
        prompt: The question.
        references: Right answers.
        answers: System, its scores in words (or `refused`), and its answer (or the reason).
    """

    task: str
    id: str
    prompt: str
    references: Sequence[str]
    answers: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class ReportSection:
    """A heading with its text, figures, tables and examples, in this order."""

    title: str
    text: str = ""
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    examples: Sequence[Example] = ()

    @property
    def name(self) -> str:
        """The title as the target of a link."""
        return self.title.lower().replace(" ", "-")


@dataclass(frozen=True)
class Report:
    """The content of a report: a title, facts and notes below it, and sections."""

    title: str
    facts: dict[str, str]
    notes: Sequence[str]
    sections: Sequence[ReportSection]

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
        FileNotFoundError: If the folder does not exist.
        E2LLMError: If it is not the folder of a finished run, or a file is damaged.
    """
    report = build_report(read_run(folder))
    contents = {"report.html": report.html().encode(), "report.md": report.markdown().encode()}
    for section in report.sections:
        contents |= {f"{PLOTS_NAME}/{figure.name}.png": figure.png for figure in section.figures}
    for name, content in contents.items():
        write_atomically(folder / name, content)
    return [folder / name for name in contents]


def build_report(run: Run) -> Report:
    """Collect all sections that a run has something for, the most interesting first."""
    draws = has_matplotlib()
    refusals = [(name, sum(r.num_refused for r in run.rows if r.system == name)) for name in run.systems]
    refused = ", ".join(f"{name} refused {count}" for name, count in refusals if count)
    notes = [] if draws else [NO_PLOTS]
    if refused:
        notes.insert(
            0,
            f"Refused items have no score and count in no mean: {refused}. The examples and "
            "predictions.jsonl have the reasons.",
        )
    legend = _LEGEND + (_REFUSAL_LEGEND if refused else "")
    sections = [
        ReportSection("Scores", legend, tables=score_tables(run)),
        ReportSection("Score against cost", figures=cost_figure(run) if draws else []),
        ReportSection("Score against length", figures=length_figure(run) if draws else []),
        ReportSection("Needles by depth and length", figures=heat_figures(run) if draws else []),
        ReportSection("Breakdowns", tables=breakdown_tables(run)),
        ReportSection("Cost", tables=[table for table in [cost_table(run)] if table.rows]),
        ReportSection("Paired tests", tables=[table for table in [pair_test_table(run)] if table.rows]),
        ReportSection("Examples", examples=_examples(run)),
        ReportSection("Provenance", tables=[provenance_table(run)]),
    ]
    shown = [found for found in sections if found.figures or found.tables or found.examples]
    return Report("Evaluation report", _facts(run), notes, shown)


def has_matplotlib() -> bool:
    """Return whether plots can be drawn."""
    return importlib.util.find_spec("matplotlib") is not None


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


def _examples(run: Run) -> list[Example]:
    """Return the first items of each task by id, numbers in ids by size."""
    examples = []
    for task, facts in run.tasks.items():
        by_id: dict[str, list[Prediction]] = {}
        for system in run.systems:
            for entry in run.of(task, system):
                by_id.setdefault(entry.id, []).append(entry)
        for name in sorted(by_id, key=natural_key)[:NUM_EXAMPLES]:
            first = by_id[name][0]
            groups = ", ".join(f"{key} {value}" for key, value in first.groups.items())
            answers = [_answer(entry, facts.metric) for entry in by_id[name]]
            references = [_shortened(reference) for reference in first.references]
            title = f"{name} ({groups})" if groups else name
            examples.append(Example(task, title, _shortened(first.prompt), references, answers))
    return examples


def _answer(entry: Prediction, metric: str) -> tuple[str, str, str]:
    if entry.error is not None:
        return entry.system, "refused", _shortened(entry.error)
    names = sorted(entry.scores, key=lambda name: name != metric)
    scores = ", ".join(f"{name} {readable_score(entry.scores[name])}" for name in names)
    return entry.system, scores, _shortened(entry.prediction)


def _shortened(text: str) -> str:
    if len(text) <= _MAX_CHARS:
        return text
    return f"{text[:_MAX_CHARS]}\n[... {len(text) - _MAX_CHARS:,} more characters]"
