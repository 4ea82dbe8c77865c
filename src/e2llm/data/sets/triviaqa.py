"""TriviaQA (Joshi et al. 2017, arXiv 1705.03551): trivia questions with Wikipedia pages as evidence."""

from e2llm.data.data_set import Conversion, Records, data_set

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
def triviaqa(run: Conversion) -> Records:
    """Yield one record per question, with all of its Wikipedia pages one after another as the context.

    The references are the aliases that the official score compares with. A program found the pages: some do
    not hold the answer. The answers of the test part are not published.
    """
    path = run.file(f"qa/{_FILES[run.split]}")
    pages = run.source / "evidence" / "wikipedia"
    for number, row in enumerate(run.json(path)["Data"], start=1):
        run.place = f"{path}: question {number}"
        prompt, answer = " ".join(row["Question"].split()), row["Answer"]
        answers = [answer["Value"].strip(), *answer["NormalizedAliases"], *answer.get("HumanAnswers", [])]
        texts = [run.text(pages / page["Filename"]).strip() for page in row["EntityPages"]]
        context = "\n\n".join(text for text in texts if text)
        yield run.question(context, prompt, answers, id=str(row.get("QuestionId") or number))
