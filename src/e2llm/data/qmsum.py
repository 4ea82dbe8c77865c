"""QMSum (Zhong et al. 2021, arXiv 2104.05938): queries on whole meetings, answered by a summary."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from e2llm.data.converter import Converter
from e2llm.data.source_files import check_keys, read_json
from e2llm.records import Record

_FOLDERS = {"train": "train", "validation": "val", "test": "test"}
_LISTS = ("general_query_list", "specific_query_list", "meeting_transcripts")
_TRANSCRIBER_MARK = re.compile(r"\{\s*\w+\s*\}|<\s*\w+\s*>")  # {vocalsound}, {disfmarker}, {gap}, ...
_SPELLED_LETTERS = re.compile(r"\b(?:[A-Za-z]_)+")  # L_C_D_ for LCD


@dataclass
class QMSumConverter(Converter):
    """One record per query, general or specific; specific ones carry the turns that answer them as evidence.

    Marks of the transcribers are removed and spelled letters joined, as the authors' own code does.
    """

    name = "qmsum"
    description = "queries on whole meetings, answered by a summary"
    licence = "MIT"
    home = "https://github.com/Yale-LILY/QMSum"
    layout = "the repository's folder with data/ALL/{train,val,test}/*.json, one meeting a file"
    splits = ("train", "validation", "test")
    published_counts: ClassVar[Mapping[str, int]] = {"train": 1257, "validation": 272, "test": 279}

    def _records(self, source: Path, split: str) -> Iterator[Record]:
        root = source / "data" / "ALL" if (source / "data" / "ALL").is_dir() else source
        folder = root / _FOLDERS[split]
        files = sorted(folder.glob("*.json"))
        if not files:
            raise self._missing_error(folder / "*.json")
        for path in files:
            meeting = read_json(path)
            check_keys(meeting, _LISTS, str(path))
            yield from self._meeting(path, meeting)

    def _meeting(self, path: Path, meeting: dict[str, Any]) -> Iterator[Record]:
        context, lines = _transcript(meeting["meeting_transcripts"], str(path))
        for kind in ("general", "specific"):
            for number, row in enumerate(meeting[f"{kind}_query_list"], start=1):
                check_keys(row, ("query", "answer"), f"{path}: {kind} query {number}")
                if not row["query"].strip() or not row["answer"].strip():
                    self.skipped["query or answer is empty"] += 1
                    continue
                yield Record(
                    context,
                    " ".join(row["query"].split()),
                    " ".join(row["answer"].split()),
                    evidence=self._evidence(path, row.get("relevant_text_span", []), lines),
                    id=f"{path.stem}:{kind}-{number}",
                    source=self.name,
                )

    def _evidence(
        self, path: Path, spans: list[list[str]], lines: list[tuple[int, int]]
    ) -> tuple[tuple[int, int], ...]:
        """Character spans of the turns `first..last`, both counted in."""
        evidence = []
        for first, last in spans:
            if not 0 <= int(first) <= int(last) < len(lines):
                raise self._layout_error(path, f"relevant_text_span {first}-{last} of {len(lines)} turns")
            evidence.append((lines[int(first)][0], lines[int(last)][1]))
        return tuple(evidence)


def _transcript(turns: list[dict[str, str]], place: str) -> tuple[str, list[tuple[int, int]]]:
    """The meeting as `Speaker: text` lines and the character span of each turn."""
    lines: list[str] = []
    spans: list[tuple[int, int]] = []
    position = 0
    for number, turn in enumerate(turns):
        check_keys(turn, ("speaker", "content"), f"{place}: turn {number}")
        line = f"{turn['speaker'].strip()}: {_clean(turn['content'])}".rstrip()
        spans.append((position, position + len(line)))
        lines.append(line)
        position += len(line) + 1
    return "\n".join(lines), spans


def _clean(text: str) -> str:
    text = _TRANSCRIBER_MARK.sub(" ", text)
    text = _SPELLED_LETTERS.sub(lambda match: match.group().replace("_", ""), text)
    return " ".join(text.split())
