"""QuALITY (Pang et al. 2022, arXiv 2112.08608): multiple-choice questions on whole stories and articles."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from e2llm.data.converter import Converter
from e2llm.data.source_files import check_keys, read_json_lines
from e2llm.prompts import OPTION_LETTERS, word_options
from e2llm.records import Record

_PREFIX = "QuALITY.v1.0.1.htmlstripped."
_SUFFIXES = {"train": "train", "validation": "dev", "test": "test"}
_NUM_OPTIONS = 4


@dataclass
class QualityConverter(Converter):
    """One record per question, with the whole article; two lines of a file share an article, as published.

    The authors keep the labels of the test part to themselves: its questions are counted as left out.
    """

    name = "quality"
    description = "multiple-choice questions on whole stories and articles of about 5,000 words"
    licence = "questions: CC BY 4.0; articles: Project Gutenberg and others, each line names its own"
    home = "https://github.com/nyu-mll/quality"
    layout = f"a folder with {_PREFIX}{{train,dev,test}}, or one of these files"
    splits = ("train", "validation", "test")
    published_counts: ClassVar[Mapping[str, int]] = {"train": 2523, "validation": 2086}

    def _records(self, source: Path, split: str) -> Iterator[Record]:
        path = source if source.is_file() else self._file(source, _SUFFIXES[split])
        for number, row in read_json_lines(path, ("article_id", "article", "questions")):
            place = f"{path}:{number}"
            article = row["article"].strip()
            for position, question in enumerate(row["questions"], start=1):
                check_keys(question, ("question", "options"), f"{place}: question {position}")
                if question.get("gold_label") is None:
                    self.skipped["label not published"] += 1
                    continue
                name = f"{row['article_id']}:{number}-{position}"
                record = self._question(f"{place}: question {position}", article, question, name)
                if record is not None:
                    yield record

    def _file(self, source: Path, suffix: str) -> Path:
        name = _PREFIX + suffix
        for path in (source / name, source / "data" / "v1.0.1" / name):
            if path.is_file():
                return path
        raise self._missing_error(source / name)

    def _question(self, place: str, article: str, row: dict[str, Any], name: str) -> Record | None:
        options = tuple(" ".join(option.split()) for option in row["options"])
        if len(options) != _NUM_OPTIONS:
            raise self._layout_error(Path(place), f"{len(options)} options, not {_NUM_OPTIONS}")
        label = row["gold_label"]
        if label not in range(1, _NUM_OPTIONS + 1):
            raise self._layout_error(Path(place), f"gold_label is {label!r}, not 1 to {_NUM_OPTIONS}")
        question = " ".join(row["question"].split())
        if not article or not question or not all(options):
            self.skipped["article, question or option is empty"] += 1
            return None
        return Record(
            article,
            word_options(question, options),
            OPTION_LETTERS[label - 1],
            id=str(row.get("question_unique_id") or name),
            source=self.name,
            options=options,
            groups={"difficult": str(row["difficult"])} if "difficult" in row else {},
        )
