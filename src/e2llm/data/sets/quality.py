"""QuALITY (Pang et al. 2022, arXiv 2112.08608): multiple-choice questions on whole stories and articles."""

from e2llm.data.data_set import Conversion, Records, data_set
from e2llm.prompts import OPTION_LETTERS, word_options

_PREFIX = "QuALITY.v1.0.1.htmlstripped."
_SUFFIXES = {"train": "train", "validation": "dev", "test": "test"}


@data_set(
    "quality",
    description="multiple-choice questions on whole stories and articles of about 5,000 words",
    licence="questions: CC BY 4.0; articles: Project Gutenberg and others, each line names its own",
    home="https://github.com/nyu-mll/quality",
    layout=f"a folder with {_PREFIX}{{train,dev,test}}, or one of these files",
    splits=("train", "validation", "test"),
    published_counts={"train": 2523, "validation": 2086},
)
def quality(run: Conversion) -> Records:
    """Yield one record per question on the whole article; two lines of a file share an article.

    The authors do not publish the labels of the test part: its questions are counted as left out.
    """
    name = _PREFIX + _SUFFIXES[run.split]
    for number, row in run.lines(run.file(name, f"data/v1.0.1/{name}")):
        article = row["article"].strip()
        for position, asked in enumerate(row["questions"], start=1):
            label = asked.get("gold_label")
            if label is None:
                run.skip("label not published")
                continue
            options = tuple(" ".join(option.split()) for option in asked["options"])
            if len(options) != 4 or label not in (1, 2, 3, 4):
                raise run.error(
                    f"question {position} has {len(options)} options and gold_label {label!r}, "
                    "not 4 options and a label from 1 to 4"
                )
            yield run.question(
                article,
                word_options(" ".join(asked["question"].split()), options),
                [OPTION_LETTERS[label - 1]],
                id=str(asked.get("question_unique_id") or f"{row['article_id']}:{number}-{position}"),
                options=options,
                groups={"difficult": str(asked["difficult"])} if "difficult" in asked else {},
            )
