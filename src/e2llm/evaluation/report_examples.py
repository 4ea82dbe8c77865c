"""Examples of a run: the first items of each task with what every system said."""

from collections.abc import Mapping, Sequence

from e2llm.evaluation.readable import natural_key, readable_score
from e2llm.evaluation.report_blocks import Answer, Block, Example, Paragraph, Section, Subsection
from e2llm.evaluation.run_files import Prediction, Run

NUM_EXAMPLES = 10
_MOST_CHARS = 4000  # of a prompt, an answer or a reference


def examples_section(run: Run) -> Section | None:
    """The first ten items of each task by id, numbers in ids by size."""
    blocks: list[Block] = []
    for task, facts in run.tasks.items():
        by_id: dict[str, list[Prediction]] = {}
        for system in run.systems:
            for entry in run.of(task, system):
                by_id.setdefault(entry.id, []).append(entry)
        first = sorted(by_id, key=natural_key)[:NUM_EXAMPLES]
        if first:
            blocks.append(Subsection(task))
            if facts.description:
                blocks.append(
                    Paragraph(facts.description[:1].upper() + facts.description[1:].rstrip(".") + ".")
                )
            blocks += [_example(by_id[name], facts.metric) for name in first]
    return Section("examples", "Examples", tuple(blocks)) if blocks else None


def _example(entries: Sequence[Prediction], metric: str) -> Example:
    """An item under all systems."""
    first = entries[0]
    groups = ", ".join(f"{key} {value}" for key, value in first.groups.items())
    references = tuple(shortened(text) for text in first.references)
    answers = tuple(_answer(entry, metric) for entry in entries)
    return Example(first.id, groups, shortened(first.prompt), references, answers)


def _answer(entry: Prediction, metric: str) -> Answer:
    if entry.error is not None:
        return Answer(entry.system, shortened(entry.error), "refused", True)
    return Answer(entry.system, shortened(entry.text), scores_in_words(entry.scores, metric), False)


def scores_in_words(scores: Mapping[str, float], metric: str) -> str:
    """The metric first, then the other scores."""
    names = sorted(scores, key=lambda name: name != metric)
    return ", ".join(f"{name} {readable_score(scores[name])}" for name in names)


def shortened(text: str) -> str:
    """The text, or its beginning with the count of what is left out."""
    if len(text) <= _MOST_CHARS:
        return text
    return f"{text[:_MOST_CHARS]}\n[... {len(text) - _MOST_CHARS:,} more characters]"
