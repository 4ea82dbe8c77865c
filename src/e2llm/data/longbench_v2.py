"""LongBench v2 (Bai et al. 2024, arXiv 2412.15204): hard multiple-choice questions on long texts."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from e2llm.data.converter import Converter
from e2llm.data.json_items import read_json_items
from e2llm.data.source_files import check_keys
from e2llm.prompts import OPTION_LETTERS, word_options
from e2llm.records import Record

_GROUPS = ("difficulty", "length", "domain", "sub_domain")
_CHOICES = tuple(f"choice_{letter}" for letter in OPTION_LETTERS[:4])
_KEYS = ("_id", *_GROUPS, "question", *_CHOICES, "answer", "context")


@dataclass
class LongBenchV2Converter(Converter):
    """One record per question; its groups are those that the authors break their scores down by."""

    name = "longbench_v2"
    description = "multiple-choice questions on texts of 8 thousand to 2 million words"
    licence = "Apache-2.0"
    home = "https://huggingface.co/datasets/zai-org/LongBench-v2"
    layout = "data.json (one JSON list), or a folder with it"
    splits = ("test",)
    published_counts: ClassVar[Mapping[str, int]] = {"test": 503}

    def _records(self, source: Path, split: str) -> Iterator[Record]:
        path = source if source.is_file() else source / "data.json"
        if not path.is_file():
            raise self._missing_error(path)
        for number, row in read_json_items(path):
            check_keys(row, _KEYS, f"{path}: item {number}")
            record = self._question(path, row)
            if record is not None:
                yield record

    def _question(self, path: Path, row: dict[str, Any]) -> Record | None:
        options = tuple(row[key].strip() for key in _CHOICES)
        question = row["question"].strip()
        if not question or not row["context"].strip() or not all(options):
            self.skipped["question, choice or context is empty"] += 1
            return None
        answer = row["answer"].strip()
        if answer not in OPTION_LETTERS[:4] or len(answer) != 1:
            raise self._layout_error(path, f"{row['_id']}: answer is {answer!r}, not A, B, C or D")
        return Record(
            row["context"],
            word_options(question, options),
            answer,
            id=str(row["_id"]),
            source=self.name,
            options=options,
            groups={key: row[key] for key in _GROUPS if row[key]},
        )
