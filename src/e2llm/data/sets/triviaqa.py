"""TriviaQA (Joshi et al. 2017, arXiv 1705.03551): trivia questions with Wikipedia pages as evidence."""

from collections.abc import Iterator

from e2llm.data.data_set import Conversion, data_set
from e2llm.records import Record

_FILES = {"train": "wikipedia-train.json", "validation": "wikipedia-dev.json"}


@data_set(
    "triviaqa",
    description="trivia questions on whole Wikipedia pages, answered by a name or a few words",
    licence="questions: not stated by the authors; pages: CC BY-SA (Wikipedia)",
    home="https://nlp.cs.washington.edu/triviaqa/",
    layout="the unpacked triviaqa-rc folder with qa/wikipedia-{train,dev}.json and evidence/wikipedia/",
    splits=("train", "validation"),
    published_counts={"train": 61888, "validation": 7993},
)
def triviaqa(run: Conversion) -> Iterator[Record]:
    """Yield one record per question, with all of its Wikipedia pages one after another as the context.

    The references are the aliases that the official score compares with. A program found the pages: some do
    not hold the answer. The answers of the test part are not published.
    """
    path = run.file(f"qa/{_FILES[run.split]}")
    pages = run.source / "evidence" / "wikipedia"
    for number, row in enumerate(run.json(path)["Data"], start=1):
        run.place = f"{path}: question {number}"
        prompt = " ".join(row["Question"].split())
        answer = row["Answer"]["Value"].strip()
        aliases = [*row["Answer"]["NormalizedAliases"], *row["Answer"].get("HumanAnswers", [])]
        names = [page["Filename"] for page in row["EntityPages"]]
        if not prompt or not answer:
            run.skip("question or answer is empty")
            continue
        texts = [run.text(pages / name).strip() for name in names]
        context = "\n\n".join(text for text in texts if text)
        if not context:
            run.skip("question without a page")
            continue
        references = dict.fromkeys(alias for alias in aliases if alias.strip() and alias != answer)
        name = str(row.get("QuestionId") or number)
        yield run.record(context, prompt, answer, references=tuple(references), id=name)
