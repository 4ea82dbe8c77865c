"""Tiny data sets of long documents in published layouts; every text here is made up for the tests."""

from pathlib import Path

from sample_files import write_csv, write_json, write_json_lines, write_text


def make_govreport(root: Path) -> Path:
    """A made sample in the layout of the table on Hugging Face."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (root / "document").mkdir(parents=True)
    for name in ("train", "validation"):
        table = pa.table({"report": [" A made report. ", None], "summary": ["Made.", "Lost."]})
        pq.write_table(table, root / "document" / f"{name}-00000-of-00001.parquet")
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
