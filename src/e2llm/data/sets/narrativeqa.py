"""NarrativeQA (Kočiský et al. 2018, arXiv 1712.07040): questions on whole books and film scripts."""

import html
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from e2llm.data.data_set import Conversion, Records, data_set

_SETS = {"train": "train", "validation": "valid", "test": "test"}
_SUMMARIES = "third_party/wikipedia/summaries.csv"
_MIN_STORY_BYTES = 19_000  # smaller files are failed downloads, as in the authors' script
_IS_HTML = re.compile(r"<(!doctype html|html|head|body|pre)\b", re.IGNORECASE)
_UNSHOWN = re.compile(r"<(script|style|title)\b.*?</\1\s*>|<!--.*?-->", re.IGNORECASE | re.DOTALL)
_BREAK = re.compile(r"<(br|p|div|tr|li|table|pre|h[1-4])\b[^>]*>", re.IGNORECASE)
_TAG = re.compile(r"</?[a-z][^>]*>", re.IGNORECASE)


@data_set(
    "narrativeqa",
    description="questions on whole books and film scripts, or on their summaries, answered in a few words",
    licence="questions: Apache-2.0; summaries: CC BY-SA 3.0 (Wikipedia); each story has its own",
    home="https://github.com/google-deepmind/narrativeqa",
    layout=(
        f"the repository's folder with qaps.csv and {_SUMMARIES} (--set context=summary), or with "
        "documents.csv and tmp/*.content, the stories that download_stories.sh fetches"
    ),
    splits=("train", "validation", "test"),
    published_counts={"train": 32747, "validation": 3461, "test": 10557},
)
def narrativeqa(run: Conversion, *, context: Literal["story", "summary"] = "story") -> Records:
    """Yield one record per question; the first answer is the answer, the second a reference.

    Args:
        run: The conversion.
        context: The whole `story`, which has to be downloaded, or the `summary` from Wikipedia that the
            questions were written on.
    """
    read = _stories(run) if context == "story" else _summaries(run)
    document, text = "", ""
    numbers: Counter[str] = Counter()
    columns = ("document_id", "set", "question", "answer1", "answer2")
    for row in run.csv(run.source / "qaps.csv", *columns):
        if row["set"] != _SETS[run.split]:
            continue
        if row["document_id"] != document:  # the questions of a document follow each other
            document = row["document_id"]
            text = read(document)
        numbers[document] += 1
        if not text:
            run.skip(f"question whose {context} is missing")
            continue
        prompt, *answers = (" ".join(row[key].split()) for key in ("question", "answer1", "answer2"))
        yield run.question(text, prompt, answers, id=f"{document}:{numbers[document]}")


def _summaries(run: Conversion) -> Callable[[str], str]:
    rows = run.csv(run.source / _SUMMARIES, "document_id", "set", "summary")
    summaries = {row["document_id"]: row["summary"].strip() for row in rows}
    return lambda document: summaries.get(document, "")


def _stories(run: Conversion) -> Callable[[str], str]:
    """Return a function that reads a story, cut at the first and last words that documents.csv has."""
    rows = run.csv(run.source / "documents.csv", "document_id", "story_start", "story_end")
    words = {row["document_id"]: (row["story_start"], row["story_end"]) for row in rows}
    folder = run.source / "tmp"
    if not folder.is_dir():
        raise run.missing(folder / "*.content")

    def read(document: str) -> str:
        path = folder / f"{document}.content"
        if not path.is_file() or path.stat().st_size < _MIN_STORY_BYTES:
            return ""
        return cut_between(read_page(path), *words.get(document, ("", "")))

    return read


def read_page(path: Path) -> str:
    """Return the text of a downloaded page without its HTML, if it has any; UTF-8, else Latin-1."""
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if _IS_HTML.search(text[:5000]):
        text = html.unescape(_TAG.sub("", _BREAK.sub("\n", _UNSHOWN.sub("", text))))
    lines = "\n".join(line.rstrip() for line in text.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", lines).strip()


def cut_between(text: str, first_words: str, last_words: str) -> str:
    """Return the text from its first words, if it has them, to its last ones, whatever their spaces."""
    starts = _places(text, first_words)
    start = starts[0][0] if starts else 0
    ends = [end for place, end in _places(text, last_words) if place >= start]
    return text[start : ends[-1] if ends else len(text)].strip()


def _places(text: str, words: str) -> list[tuple[int, int]]:
    pattern = r"\s*".join(re.escape(word) for word in words.split())
    return [match.span() for match in re.finditer(pattern, text)] if pattern else []
