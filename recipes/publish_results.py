"""Put the evaluation of the embedded model into the documents: `python recipes/publish_results.py RUN ...`.

Each RUN is a folder of `e2llm eval`. Scores, costs and what they were made with go into docs/results.md,
between the two lines that mark the place, in the order given; plots go into docs/plots/. All else in the
documents stays.
"""

import argparse
import re
import sys
from dataclasses import replace
from pathlib import Path

from e2llm.errors import E2LLMError
from e2llm.evaluation.report.plots import cost_figure
from e2llm.evaluation.report.report import build_report
from e2llm.evaluation.run.scores import Run, read_run
from e2llm.files import put_between, write_atomically

DOCS = Path(__file__).parents[1] / "docs"
PLOTS_NAME = "plots"
BEGIN = "<!-- made by recipes/publish_results.py: begin -->"
END = "<!-- made by recipes/publish_results.py: end -->"
LEFT_OUT = ("Examples", "Paired tests", "Breakdowns")  # they are in the run's own report
README_PLOT = "smol.png"
README_TASKS = ("fairytaleqa", "qmsum", "squality")


def published(folder: Path, docs: Path) -> str:
    """The part of a run's report that the documents show, as Markdown; its plots are written."""
    run = read_run(folder)
    report = build_report(run)
    prefix = f"smol-{folder.name}"
    write_readme_plot(run, docs)
    left_out = LEFT_OUT if "niah_heatmap" in run.tasks else (*LEFT_OUT, "Needles by depth and length")
    sections = []
    for section in report.sections:
        if section.title not in left_out:
            figures = [replace(figure, name=f"{prefix}-{figure.name}") for figure in section.figures]
            for figure in figures:
                write_atomically(docs / PLOTS_NAME / f"{figure.name}.png", figure.png)
            sections.append(replace(section, figures=figures))
    text = replace(report, title=folder.name, sections=sections).markdown(PLOTS_NAME)
    return re.sub(r"^#(#?) ", r"##\1# ", text, flags=re.MULTILINE)


def write_readme_plot(run: Run, docs: Path) -> None:
    """Draw score against cost for the tasks that the README shows, if the run has them."""
    tasks = {name: facts for name, facts in run.tasks.items() if name in README_TASKS}
    for figure in cost_figure(replace(run, tasks=tasks)):
        write_atomically(docs / PLOTS_NAME / README_PLOT, figure.png)


def publish(runs: list[Path], docs: Path) -> Path:
    """Write the runs into `docs/results.md`.

    Raises:
        E2LLMError: If a run is not finished, or the document has no place for it.
        FileNotFoundError: If a run is missing.
    """
    document = docs / "results.md"
    text = document.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise E2LLMError(f"{document} lacks the lines {BEGIN!r} and {END!r}, between which results are put")
    parts = "\n".join(published(run, docs) for run in runs)
    write_atomically(document, put_between(text, BEGIN, END, parts).encode())
    return document


def main(arguments: list[str] | None = None) -> int:
    """Publish the runs."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders of 'e2llm eval'")
    parser.add_argument("--docs", type=Path, default=DOCS, help="the documents' folder")
    options = parser.parse_args(arguments)
    try:
        print(publish(options.runs, options.docs))
    except (E2LLMError, OSError) as error:
        print(f"publish_results: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
