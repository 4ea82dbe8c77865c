"""Texts, counts of tokens and made data sets in the published layouts, for the tests of RULER's tasks."""

import json
import re
from functools import cache
from pathlib import Path

from tokenizers import Tokenizer

import e2llm
from e2llm.evaluation.items import TaskRequest

HAYSTACKS = [
    " ".join(
        f"The made walker of day {number} went along the {colour} shore, and the wind was {wind}."
        for number in range(400)
        for colour, wind in (("pebbled", "friendly"), ("narrow", "unkind"))
    ),
    "A second text follows.\n\nIt has two   paragraphs; neither is long.",
]


def count_words(text):
    return len(text.split())


def count_pieces(text):
    """Pieces of up to four letters, digits one by one, and signs: much like a subword tokenizer."""
    return len(re.findall(r"[^\W\d_]{1,4}|\d|[^\w\s]|_", text))


@cache
def _tokenizer():
    return Tokenizer.from_file(str(Path(e2llm.__file__).parent / "embedded" / "smol" / "tokenizer.json"))


def count_smol(text):
    """Tokens of the embedded model's decoder."""
    return len(_tokenizer().encode(text, add_special_tokens=False).ids)


def request(limit=3, count_tokens=count_words, lengths=(1024,), **options):
    return TaskRequest(
        count_tokens, limit, haystacks=options.pop("haystacks", HAYSTACKS), lengths=lengths, **options
    )


def evidence_of(item):
    return [item.context[start:end] for start, end in item.evidence]


def write_squad(folder, num_articles=3, num_paragraphs=4):
    """A made file in the layout of SQuAD v2.0; the answer of each question stands in one paragraph only."""
    articles = []
    for article in range(num_articles):
        paragraphs = []
        for number in range(num_paragraphs):
            answer = f"answer {article} {number}"
            context = (
                f"Paragraph {number} of article {article}. " * 8 + f"Here is {answer}, and no more of it."
            )
            question = {
                "id": f"q{article}{number}",
                "question": f"What is said in {article} {number}?",
                "answers": [{"text": answer, "answer_start": context.index(answer)}],
                "is_impossible": False,
            }
            trap = {"id": f"x{article}{number}", "question": "Never?", "answers": [], "is_impossible": True}
            paragraphs.append({"context": context, "qas": [question, trap]})
        articles.append({"title": f"Article_{article}", "paragraphs": paragraphs})
    (folder / "dev-v2.0.json").write_text(json.dumps({"version": "v2.0", "data": articles}))


def write_hotpot(folder, num_questions=5):
    """A made file in HotpotQA's layout: two golden paragraphs and two others for each question."""
    rows = []
    for number in range(num_questions):
        titles = [f"Title {number} {letter}" for letter in "ABCD"]
        context = [[title, [f"{title} opens.", f" {title} tells of thing {number}."]] for title in titles]
        facts = [[titles[2], 1], [titles[0], 0]]
        question = f"Which title tells of {number}?"
        rows.append(
            {
                "_id": str(number),
                "question": question,
                "answer": titles[2],
                "context": context,
                "supporting_facts": facts,
            }
        )
    (folder / "hotpot_dev_distractor_v1.json").write_text(json.dumps(rows))
