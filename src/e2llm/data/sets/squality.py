"""SQuALITY (Wang et al. 2022, arXiv 2205.11465): question-focused summaries of whole short stories."""

import re

from e2llm.data.data_set import Conversion, Records, data_set

_FILES = {"train": "train.jsonl", "validation": "dev.jsonl", "test": "test.jsonl"}


@data_set(
    "squality",
    description="questions on whole short stories, answered by a summary of about 200 words",
    licence="stories: Project Gutenberg, questions and summaries: CC BY 4.0",
    home="https://github.com/nyu-mll/SQuALITY",
    layout="the repository's folder with data/v1-3/txt/{train,dev,test}.jsonl",
    splits=("train", "validation", "test"),
    published_counts={"train": 250, "validation": 125, "test": 260},
)
def squality(run: Conversion) -> Records:
    """Yield one record per question on the story; further summaries are references."""
    name = _FILES[run.split]
    for _, row in run.lines(run.file(f"data/v1-3/txt/{name}", name)):
        context = _tidy(row["document"])
        for question in row["questions"]:
            yield run.question(
                context,
                " ".join(question["question_text"].split()),
                (_tidy(response["response_text"]) for response in question["responses"]),
                id=f"{row['metadata']['passage_id']}:{question['question_number']}",
            )


def _tidy(text: str) -> str:
    """Return the text without the white space of the HTML's layout: line ends, runs of empty lines."""
    lines = "\n".join(line.strip() for line in text.replace("\r", "").split("\n"))
    return re.sub(r"\n{3,}", "\n\n", lines).strip()
