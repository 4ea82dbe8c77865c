"""FairytaleQA (Xu et al. 2022, arXiv 2203.13947): questions on whole fairy tales, with the gold section."""

import re
from pathlib import Path

from e2llm.data.data_set import Conversion, Records, data_set

_FOLDERS = {"train": "train", "validation": "val", "test": "test"}
_ANSWERS = tuple(f"answer{number}" for number in range(1, 7))


@data_set(
    "fairytaleqa",
    description="questions on whole fairy tales, answered in a few words",
    licence="Apache-2.0",
    home="https://github.com/uci-soe/FairytaleQAData",
    layout="the repository's folder with data-by-train-split/{questions,section-stories}",
    splits=("train", "validation", "test"),
    published_counts={"train": 8548, "validation": 1025, "test": 1007},
)
def fairytaleqa(run: Conversion) -> Records:
    """Yield one record per question on the whole story; further answers are references."""
    folder = _FOLDERS[run.split]
    name = f"questions/{folder}/*-questions.csv"
    for path in run.files(f"data-by-train-split/{name}", name):
        title = path.name.removesuffix("-questions.csv")
        story = path.parents[2] / "section-stories" / folder / f"{title}-story.csv"
        context, spans = _join_sections(run, story)
        for row in run.csv(path, "question_id", "cor_section", "question", "answer1"):
            sections = re.findall(r"\d+", row["cor_section"])
            yield run.question(
                context,
                " ".join(row["question"].split()),
                (" ".join(row.get(key, "").split()) for key in _ANSWERS),
                evidence=tuple(spans[section] for section in sections if section in spans),
                id=f"{title}:{row['question_id']}",
            )


def _join_sections(run: Conversion, path: Path) -> tuple[str, dict[str, tuple[int, int]]]:
    """Return the whole story and the character span of each of its sections, by section number."""
    pieces: list[str] = []
    spans: dict[str, tuple[int, int]] = {}
    position = 0
    for row in run.csv(path, "section", "text"):
        text = "\n".join(line.strip() for line in row["text"].strip().split("\n"))
        if not text:
            continue
        spans[row["section"].strip()] = (position, position + len(text))
        pieces.append(text)
        position += len(text) + 2
    return "\n\n".join(pieces), spans
