"""Tiny data sets in the layouts of the published ones; every text here is made up for the tests."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_json(path: Path, document: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def write_json_lines(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def write_csv(path: Path, rows: list[dict[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


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


def make_govreport(root: Path) -> Path:
    """A made sample in the layout of the authors' folder: one report of each agency in train."""
    crs_report = {
        "section_title": "",
        "paragraphs": ["A made opening."],
        "subsections": [
            {
                "section_title": "Made Background",
                "paragraphs": ["It is  made.", ""],
                "subsections": [{"section_title": "More", "paragraphs": ["Deep."], "subsections": []}],
            }
        ],
    }
    crs = {"id": "R1", "title": "Made", "summary": ["A made summary.", "It ends."], "reports": crs_report}
    gao = {
        "id": "GAO-1",
        "title": "Made",
        "highlight": [
            {"section_title": "What GAO Found", "paragraphs": ["GAO made it up."], "subsections": []},
            {"section_title": "What GAO Recommends", "paragraphs": ["Stop."], "subsections": []},
        ],
        "report": [{"section_title": "Letter", "paragraphs": ["Dear made reader."], "subsections": []}],
    }
    for name in ("R1", "R2"):
        write_json(root / "crs" / f"{name}.json", {**crs, "id": name})
    write_json(root / "gao" / "GAO-1.json", gao)
    lists = {"crs_train": "R1\n", "gao_train": "GAO-1\n", "crs_valid": "R2\n", "gao_valid": ""}
    for name, text in lists.items():
        write_text(root / "split_ids" / f"{name}.ids", text)
    return root


def make_govreport_tables(root: Path) -> Path:
    """A made sample in the layout of the table on Hugging Face: JSON lines and Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    write_json_lines(root / "train.jsonl", [{"report": " A made report. ", "summary": "Made."}])
    (root / "document").mkdir()
    table = pa.table({"report": ["Another.", None], "summary": ["Made too.", "Lost."]})
    pq.write_table(table, root / "document" / "validation-00000-of-00001.parquet")
    return root


QUALITY_ROW = {
    "article_id": "52845",
    "set_unique_id": "52845_MADE",
    "title": "Made Ship",
    "article": "A made ship flew.\nIt was red.",
    "questions": [
        {
            "question": "Which ship flew?",
            "question_unique_id": "52845_MADE_1",
            "options": ["the red one", "the made one", "none", "both"],
            "gold_label": 2,
            "difficult": 1,
        },
        {
            "question": "Which was red?",
            "question_unique_id": "52845_MADE_2",
            "options": ["none", "both", "a dog", "the made one"],
            "gold_label": 4,
            "difficult": 0,
        },
    ],
}


def make_quality(root: Path) -> Path:
    """A made sample in the layout of QuALITY v1.0.1; the test file has no labels, as published."""
    for name in ("train", "dev"):
        write_json_lines(root / f"QuALITY.v1.0.1.htmlstripped.{name}", [QUALITY_ROW])
    kept = ("question", "question_unique_id", "options", "difficult")
    asked = [{key: question[key] for key in kept} for question in QUALITY_ROW["questions"]]
    write_json_lines(root / "QuALITY.v1.0.1.htmlstripped.test", [{**QUALITY_ROW, "questions": asked}])
    return root


def make_narrativeqa(root: Path) -> Path:
    """A made sample in the layout of NarrativeQA: a book as text, a film script in HTML."""
    asked = {"question": "Who made it?", "answer1": "A made man.", "answer2": "the man"}
    write_csv(
        root / "qaps.csv",
        [
            {"document_id": "b1", "set": "train", **asked},
            {"document_id": "b1", "set": "train", **asked, "question": "Why was it  made?", "answer2": ""},
            {"document_id": "f1", "set": "valid", **asked},
        ],
    )
    write_csv(
        root / "third_party" / "wikipedia" / "summaries.csv",
        [
            {"document_id": "b1", "set": "train", "summary": " A made man makes a book.\nThe end."},
            {"document_id": "f1", "set": "valid", "summary": "A made man makes a film."},
        ],
    )
    write_csv(
        root / "documents.csv",
        [
            {
                "document_id": "b1",
                "kind": "gutenberg",
                "story_start": "MADE BOOK .",
                "story_end": "THE END .",
            },
            {"document_id": "f1", "kind": "movie", "story_start": "FADE IN :", "story_end": "FADE OUT ."},
        ],
    )
    write_text(
        root / "tmp" / "b1.content", "Licence.\n\nMADE BOOK.\n" + "It is made. " * 2000 + "\nTHE END.\nAds."
    )
    scene = "<b>INT. MADE HOUSE</b>\nMade &amp; dark.\n" * 600
    script = f"<pre>FADE IN:\n{scene}FADE OUT.</pre>"
    page = f"<html><head><title>Menu</title></head><body>Menu{script}Ads</body></html>"
    write_text(root / "tmp" / "f1.content", page)
    return root


def make_triviaqa(root: Path) -> Path:
    """A made sample in the layout of TriviaQA rc, the Wikipedia part."""
    answer = {
        "Value": "Made Hill",
        "Aliases": ["Made Hill", "The Hill"],
        "NormalizedAliases": ["made hill", "hill"],
        "NormalizedValue": "made hill",
    }
    row = {
        "Question": "Which made hill is  the highest?",
        "QuestionId": "made_1",
        "Answer": answer,
        "EntityPages": [{"Filename": "Made_Hill.txt", "Title": "Made Hill"}, {"Filename": "Hills.txt"}],
        "SearchResults": [],
    }
    lost = {**row, "QuestionId": "made_2", "EntityPages": []}
    for name in ("train", "dev"):
        write_json(
            root / "qa" / f"wikipedia-{name}.json",
            {"Data": [row, lost], "Domain": "Wikipedia", "VerifiedEval": False, "Version": 1.0},
        )
    write_text(root / "evidence" / "wikipedia" / "Made_Hill.txt", "Made Hill is high.\n")
    write_text(root / "evidence" / "wikipedia" / "Hills.txt", "Hills are made.")
    return root


LONGBENCH_V2_ROW = {
    "_id": "made66",
    "domain": "Single-Document QA",
    "sub_domain": "Made",
    "difficulty": "hard",
    "length": "short",
    "question": "Which one is it?",
    "choice_A": "another one",
    "choice_B": "none",
    "choice_C": "the made one",
    "choice_D": "both",
    "answer": "C",
    "context": "A long made text.",
}


def make_longbench_v2(root: Path) -> Path:
    """A made sample in the layout of LongBench v2."""
    write_json(root / "data.json", [LONGBENCH_V2_ROW, {**LONGBENCH_V2_ROW, "_id": "made67"}])
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
    "scisummnet": (make_scisummnet, 1),
    "govreport": (make_govreport, 2),
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
