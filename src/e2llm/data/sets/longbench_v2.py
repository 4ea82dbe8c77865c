"""LongBench v2 (Bai et al. 2024, arXiv 2412.15204): hard multiple-choice questions on long texts."""

from e2llm.data.data_set import Conversion, Records, data_set
from e2llm.prompts import word_options

_GROUPS = ("difficulty", "length", "domain", "sub_domain")
_CHOICES = ("choice_A", "choice_B", "choice_C", "choice_D")


@data_set(
    "longbench_v2",
    description="multiple-choice questions on texts of 8 thousand to 2 million words",
    licence="Apache-2.0",
    home="https://huggingface.co/datasets/zai-org/LongBench-v2",
    layout="data.json (one JSON list), or a folder with it",
    splits=("test",),
    published_counts={"test": 503},
)
def longbench_v2(run: Conversion) -> Records:
    """Yield one record per question; its groups are those that the authors break their scores down by."""
    path = run.file("data.json")
    for number, row in enumerate(run.json(path), start=1):
        run.place = f"{path}: question {number}"
        options = tuple(row[key].strip() for key in _CHOICES)
        answer = row["answer"].strip()
        if answer not in ("A", "B", "C", "D"):
            raise run.error(f"the answer must be A, B, C or D, got {answer!r}")
        yield run.question(
            row["context"],
            word_options(row["question"].strip(), options),
            [answer],
            id=str(row["_id"]),
            options=options,
            groups={key: row[key] for key in _GROUPS if row[key]},
        )
