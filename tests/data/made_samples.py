"""Tiny data sets in the layouts of the published ones; every text here is made up for the tests."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from made_long_samples import make_govreport, make_longbench_v2, make_narrativeqa, make_quality, make_triviaqa
from sample_files import write_csv, write_json, write_json_lines, write_text


def make_text(root: Path) -> Path:
    write_text(root / "one.txt", "A made text.")
    write_text(root / "deep" / "two.md", "# Made\n\nAnother made text.")
    return root


def make_parquet(root: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    root.mkdir(parents=True, exist_ok=True)
    table = pa.table({"id": ["a", "b"], "text": ["A made row.", "Another made row."], "year": [1901, 1902]})
    pq.write_table(table, root / "made.parquet")
    return root


def make_tinystories(root: Path) -> Path:
    write_text(
        root / "TinyStories-train.txt", "One day.\nThe end.\n<|endoftext|>\nA made dog ran.\n<|endoftext|>\n"
    )
    write_text(root / "TinyStories-valid.txt", "A made cat sat.\n<|endoftext|>\n")
    return root


def make_storybooks(root: Path) -> Path:
    story = (
        "# A made tree\n\n##\nHere is a\ntree.\n\n##\nIt is made.\n\n##\n* License: [CC-BY]\n* Text: Nobody\n"
    )
    write_text(root / "en" / "0001_a-made-tree.md", story)
    return root


def make_fairytaleqa(root: Path) -> Path:
    base = root / "data-by-train-split"
    sections = [
        {"section": "1", "text": "Once a made king lived."},
        {"section": "2", "text": "He had a made hat. "},
        {"section": "3", "text": "The end."},
    ]
    question = {
        "question_id": "1",
        "local-or-sum": "local",
        "cor_section": "1, 2",
        "question": "What did the king have?",
        "answer1": "a hat",
        "answer2": "A made hat.",
        "answer3": "",
        "answer4": "a hat",
    }
    for folder in ("train", "val"):
        write_csv(base / "section-stories" / folder / "made-tale-story.csv", sections)
        write_csv(base / "questions" / folder / "made-tale-questions.csv", [question])
    return root


QAMR_QUESTIONS = [
    {"question": "Who saw the made dog?", "answers": ["The made cat"]},
    {"question": "Who saw it?", "answers": ["The made cat"]},
    {"question": "What did the cat see?", "answers": ["dog", "the made dog"]},
    {"question": "The cat saw the dog", "answers": ["yes"]},
]


def make_qamr(root: Path) -> Path:
    row = {"id": "made:1", "sentence": "The made cat saw the made dog .", "qa": QAMR_QUESTIONS}
    write_json_lines(root / "qamr_train.jsonl", [row])
    write_json_lines(root / "qamr_dev.jsonl", [{**row, "id": "made:2"}])
    return root


def make_squad(root: Path) -> Path:
    paragraphs = [
        {
            "context": "The made tower has 7 floors. It was built in 1907.",
            "qas": [
                {
                    "id": "q1",
                    "question": "How many floors has the tower?",
                    "answers": [{"text": "7", "answer_start": 19}, {"text": "7 floors", "answer_start": 19}],
                }
            ],
        },
        {
            "context": "Its made garden is green.",
            "qas": [
                {
                    "id": "q2",
                    "question": "What colour is the garden?",
                    "answers": [{"text": "green", "answer_start": 19}],
                }
            ],
        },
    ]
    write_json(
        root / "dev-v1.1.json",
        {"version": "1.1", "data": [{"title": "Made_tower", "paragraphs": paragraphs}]},
    )
    return root


MEETING = {
    "topic_list": [],
    "general_query_list": [{"query": "Summarize the whole meeting.", "answer": "They made up a remote."}],
    "specific_query_list": [
        {"query": "What colour was chosen?", "answer": "Green.", "relevant_text_span": [["1", "2"]]}
    ],
    "meeting_transcripts": [
        {"speaker": "Ann", "content": "{vocalsound} Hello , the L_C_D_ is here ."},
        {"speaker": "Bob", "content": "Which colour ?"},
        {"speaker": "Ann", "content": "Green {disfmarker} I think ."},
        {"speaker": "Bob", "content": "Fine ."},
    ],
}


def make_qmsum(root: Path) -> Path:
    for folder in ("train", "val"):
        write_json(root / "data" / "ALL" / folder / "Made1.json", MEETING)
    return root


def make_squality(root: Path) -> Path:
    responses = [{"response_text": f"Made summary {number}."} for number in range(1, 5)]
    question = {
        "question_text": "What is the plot of the story?",
        "question_number": 1,
        "responses": responses,
    }
    row = {
        "metadata": {"passage_id": "made1"},
        "document": "Made Ship\n \n\n \nIt flew. \n",
        "questions": [question],
    }
    for name in ("train", "dev"):
        write_json_lines(root / "data" / "v1-3" / "txt" / f"{name}.jsonl", [row])
    return root


def make_covid_qa(root: Path) -> Path:
    context = "A made paper. Masks help a little."
    answers = [{"text": " Masks help", "answer_start": 14}]  # one off, as in the published file
    qas = [{"id": 1, "question": "What helps?", "answers": answers, "is_impossible": False}]
    document = {"data": [{"paragraphs": [{"context": context, "document_id": 7, "qas": qas}]}]}
    write_json(root / "data" / "question-answering" / "200423_covidQA.json", document)
    return root


PAPER = """<PAPER>
  <S sid="0">A Made Paper</S>
  <ABSTRACT><S sid="1" ssid="1">The abstract is made.</S></ABSTRACT>
  <SECTION title="1 Introduction" number="1">
    <S sid="2" ssid="1">We made it &#8220;up&#8221;.</S>
    <S sid="3" ssid="2">It is short.</S>
  </SECTION>
</PAPER>
"""


def make_scisummnet(root: Path) -> Path:
    paper = root / "data" / "Training-Set-2019" / "Task2" / "From-ScisummNet-2019" / "X00-0001"
    write_text(paper / "Reference_XML" / "X00-0001.xml", PAPER)
    write_text(
        paper / "summary" / "X00-0001.scisummnet_human.txt", "A Made Paper\nIt is made up.\nAnd short.\n"
    )
    return root


def make_sgd(root: Path) -> Path:
    def frame(slots: dict[str, list[str]]) -> list[Any]:
        return [{"service": "Made_1", "slots": [], "state": {"active_intent": "Find", "slot_values": slots}}]

    turns = [
        {
            "speaker": "USER",
            "utterance": "A table for 2 in San Jose.",
            "frames": frame({"city": ["San Jose"]}),
        },
        {"speaker": "SYSTEM", "utterance": "At 12?", "frames": []},
        {
            "speaker": "USER",
            "utterance": "No, at half past 11.",
            "frames": frame({"city": ["San Jose"], "time": ["11:30", "half past 11"], "seats": ["2"]}),
        },
        {"speaker": "USER", "utterance": "Make it at 9.", "frames": frame({"time": ["9"], "wifi": ["True"]})},
    ]
    dialogue = [{"dialogue_id": "1_00000", "services": ["Made_1"], "turns": turns}]
    for folder in ("train", "dev"):
        write_json(root / folder / "dialogues_001.json", dialogue)
    return root


def make_factbook(root: Path) -> Path:
    entry = {
        "Geography": {
            "Area": {"total": {"text": "12 sq km"}, "land": {"text": "10 sq km"}},
            "Coastline": {"text": "<b>3</b> km"},
        },
        "Government": {"Country name": {"conventional short form": {"text": "Madeland"}}},
        "Economy": {"Overview": {"text": "A made economy. " * 20}},
    }
    write_json(root / "europe" / "ml.json", entry)
    return root


def make_medquad(root: Path) -> Path:
    page = """<?xml version="1.0" encoding="UTF-8"?>
<Document id="0000001" source="Made"><Focus>Made Flu</Focus><QAPairs>
<QAPair pid="1"><Question qtype="information">What is (are) Made Flu ?</Question>
<Answer>A flu
    that is made up.</Answer></QAPair>
<QAPair pid="2"><Question qtype="treatment">What are the treatments for Made Flu ?</Question>
<Answer>Rest.</Answer></QAPair>
<QAPair pid="3"><Question qtype="outlook">What is the outlook?</Question><Answer></Answer></QAPair>
</QAPairs></Document>"""
    write_text(root / "1_Made_QA" / "0000001.xml", page)
    return root


def make_openstax(root: Path) -> Path:
    key = {"book": "Made Book", "module": "m1"}
    text = "Plants are made green. Sap: the juice of plants."
    write_json_lines(
        root / "modules.jsonl",
        [
            {**key, "title": "Plants", "text": text},
            {**key, "module": "m2", "title": "Preface", "text": "Made."},
        ],
    )
    exercise = {**key, "question": "What colour are plants?", "options": ["red", "green"], "solution": "B"}
    unsolved = {**key, "question": "Why?", "options": [], "solution": None}
    write_json_lines(root / "exercises.jsonl", [exercise, unsolved])
    write_json_lines(root / "glossary.jsonl", [{**key, "term": "sap", "meaning": "the juice of plants"}])
    return root


CONTRACT = """MADE  AGREEMENT


This Agreement is made on May 8, 2014 by Made Inc. ("Seller") and Other Ltd. ("Buyer").
It ends on December 31, 2016. It is governed by the laws of
Nevada. The Buyer may audit the books.
"""


def make_cuad(root: Path) -> Path:
    from e2llm.data.sets.cuad import CATEGORIES

    row = dict.fromkeys(CATEGORIES, "[]") | {f"{category}-Answer": "" for category in CATEGORIES}
    row |= {
        "Filename": "MADE & CO_EX-10.pdf'",
        "Document Name": "['MADE AGREEMENT']",
        "Document Name-Answer": "MADE AGREEMENT",
        "Parties": "['Made Inc.', 'Seller', 'Other Ltd.', 'Buyer']",
        "Parties-Answer": 'Made Inc. ("Seller"); Other Ltd. ("Buyer")',
        "Agreement Date": "['May 8, 2014']",
        "Agreement Date-Answer": "5/8/14",
        "Expiration Date": "['It ends on December 31, 2016.']",
        "Expiration Date-Answer": "12/31/16",
        "Governing Law": "['It is governed by the laws of Nevada.']",
        "Governing Law-Answer": "Nevada",
        "Audit Rights": "['The Buyer<omitted>audit the books.']",
        "Audit Rights-Answer": "Yes",
    }
    write_csv(root / "master_clauses.csv", [row])
    write_text(root / "full_contract_txt" / "MADE _ CO_EX-10.txt", CONTRACT)
    return root


# data set -> (how to make a sample, records of its default split)
SAMPLES: dict[str, tuple[Callable[[Path], Path], int]] = {
    "text": (make_text, 2),
    "parquet": (make_parquet, 2),
    "tinystories": (make_tinystories, 2),
    "storybooks": (make_storybooks, 1),
    "fairytaleqa": (make_fairytaleqa, 1),
    "qamr": (make_qamr, 1),
    "squad": (make_squad, 2),
    "qmsum": (make_qmsum, 2),
    "squality": (make_squality, 1),
    "covid_qa": (make_covid_qa, 1),
    "cuad": (make_cuad, 41),
    "scisummnet": (make_scisummnet, 1),
    "govreport": (make_govreport, 1),
    "quality": (make_quality, 2),
    "narrativeqa": (make_narrativeqa, 2),
    "triviaqa": (make_triviaqa, 1),
    "longbench_v2": (make_longbench_v2, 2),
    "sgd": (make_sgd, 2),
    "factbook": (make_factbook, 4),
    "medquad": (make_medquad, 2),
    "openstax": (make_openstax, 3),
    "needles": (make_text, 1000),
}
