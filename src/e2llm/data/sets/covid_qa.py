"""COVID-QA (Möller et al. 2020): expert questions on whole scientific papers, answered by a span."""

from e2llm.data.data_set import Conversion, Records, data_set

_WHOLE = "data/question-answering/COVID-QA.json"
_BATCH = "data/question-answering/200423_covidQA.json"  # of April 2020, with two thirds of the set


@data_set(
    "covid_qa",
    description="questions on whole papers about coronaviruses, answered by a passage",
    licence="Apache-2.0",
    home="https://github.com/deepset-ai/COVID-QA",
    layout=f"the repository's folder with {_WHOLE} or 200423_covidQA.json, or one of these",
    published_counts={"train": 2019},
)
def covid_qa(run: Conversion) -> Records:
    """Yield one record per question.

    The published offsets are one off where the answer starts with a space; they are corrected.
    """
    for entry in run.json(run.file(_WHOLE, _BATCH))["data"]:
        for paper in entry["paragraphs"]:
            context = paper["context"]
            for row in paper["qas"]:
                answers = [(answer["text"].strip(), int(answer["answer_start"])) for answer in row["answers"]]
                spans = [_nearest_span(context, text, start) for text, start in answers if text]
                yield run.question(
                    context,
                    " ".join(row["question"].split()),
                    (text for text, _ in answers),
                    evidence=tuple(span for span in spans if span is not None),
                    id=f"{paper['document_id']}:{row['id']}",
                )


def _nearest_span(context: str, text: str, start: int) -> tuple[int, int] | None:
    """Return the span of `text` in `context` that begins nearest to `start`, if there is one."""
    after = context.find(text, max(0, start))
    before = context.rfind(text, 0, max(0, start) + len(text))
    places = [place for place in (before, after) if place >= 0]
    place = min(places, key=lambda place: abs(place - start), default=None)
    return None if place is None else (place, place + len(text))
