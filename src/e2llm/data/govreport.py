"""GovReport (Huang et al. 2021, arXiv 2104.02112): long reports of two US agencies with their summaries."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from e2llm.data.converter import Converter
from e2llm.data.parquet_rows import read_parquet_rows
from e2llm.data.source_files import check_keys, read_json, read_json_lines, read_text
from e2llm.records import Record

_PROMPT = "Summarize the report."
_AGENCIES = {"crs": ("reports", "summary"), "gao": ("report", "highlight")}  # keys of report and summary
_PARTS = {"train": ("train",), "validation": ("valid", "validation", "val"), "test": ("test",)}
_TREE_COUNTS = {"train": 17519, "validation": 974, "test": 973, "all": 19466}
_TABLE_COUNTS = {"train": 17517, "validation": 973, "test": 973, "all": 19463}
_RECOMMENDATIONS = "what gao recommends"


@dataclass
class GovReportConverter(Converter):
    """One record per report: its sections with their titles, and the summary that the agency wrote.

    As in the authors' own data, the summary of a GAO report has no "What GAO Recommends", and the title
    "Letter" of a section is left out.
    """

    name = "govreport"
    description = "reports of US agencies to Congress, to summarize"
    licence = "CC BY 4.0 (the authors' collection; the reports are works of the US government)"
    home = (
        "https://gov-report-data.github.io, or https://huggingface.co/datasets/ccdv/govreport-summarization"
    )
    layout = (
        "the authors' folder with crs/*.json, gao/*.json and split_ids/{crs,gao}_{train,valid,test}.ids, or "
        "*train*, *validation*, *test* as .parquet or .jsonl with report and summary, also in document/"
    )
    splits = ("train", "validation", "test", "all")
    published_counts: ClassVar[Mapping[str, int]] = _TREE_COUNTS

    _counts: Mapping[str, int] = field(default_factory=lambda: _TREE_COUNTS, init=False, repr=False)

    def published_count(self, split: str) -> int | None:
        """Entries of a split: the table on Hugging Face has three fewer than the authors' folder."""
        return self._counts.get(split)

    def _records(self, source: Path, split: str) -> Iterator[Record]:
        root = source / "gov-report" if (source / "gov-report").is_dir() else source
        is_tree = any((root / agency).is_dir() for agency in _AGENCIES)
        self._counts = _TREE_COUNTS if is_tree else _TABLE_COUNTS
        yield from self._tree(root, split) if is_tree else self._tables(source, split)

    # --- the authors' folder ------------------------------------------------------------------------------

    def _tree(self, root: Path, split: str) -> Iterator[Record]:
        for agency, keys in _AGENCIES.items():
            for path in self._reports(root, agency, split):
                report = read_json(path)
                check_keys(report, keys, str(path))
                context = "\n\n".join(self._sections(path, report[keys[0]]))
                summary = report[keys[1]]
                if agency == "gao":
                    paragraphs = list(self._highlights(path, summary))
                else:
                    paragraphs = self._paragraphs(path, "summary", summary)
                yield from self._record(context, "\n".join(paragraphs), f"{agency}:{path.stem}")

    def _reports(self, root: Path, agency: str, split: str) -> list[Path]:
        """The files of an agency's reports, in the order of the split's list."""
        if split == "all":
            paths = sorted((root / agency).glob("*.json"))
            if not paths:
                raise self._missing_error(root / agency / "*.json")
            return paths
        ids = root / "split_ids" / f"{agency}_{_PARTS[split][0]}.ids"
        if not ids.is_file():
            raise self._missing_error(ids)
        paths = [root / agency / f"{name}.json" for name in read_text(ids).split()]
        for path in paths:
            if not path.is_file():
                raise self._missing_error(path)
        return paths

    def _sections(self, path: Path, sections: Any) -> Iterator[str]:
        """Each section as its title and its paragraphs, the sections within it after it."""
        for section in sections if isinstance(sections, list) else [sections]:
            check_keys(section, ("section_title", "paragraphs"), f"{path}: a section")
            title = _line(section["section_title"])
            lines = [title] if title and title != "Letter" else []
            lines += self._paragraphs(path, title, section["paragraphs"])
            if lines:
                yield "\n".join(lines)
            yield from self._sections(path, section.get("subsections") or [])

    def _highlights(self, path: Path, sections: list[dict[str, Any]]) -> Iterator[str]:
        for section in sections:
            check_keys(section, ("section_title", "paragraphs"), f"{path}: highlight")
            title = _line(section["section_title"])
            if title.lower() != _RECOMMENDATIONS:
                yield from self._paragraphs(path, title, section["paragraphs"])

    def _paragraphs(self, path: Path, where: str, paragraphs: Any) -> list[str]:
        if not isinstance(paragraphs, list):
            kind = type(paragraphs).__name__
            raise self._layout_error(path, f"{where!r}: paragraphs are {kind}, not a list of strings")
        return [line for line in map(_line, paragraphs) if line]

    # --- the table on Hugging Face ------------------------------------------------------------------------

    def _tables(self, source: Path, split: str) -> Iterator[Record]:
        names = [name for part in _PARTS if split in (part, "all") for name in _PARTS[part]]
        paths = [source] if source.is_file() else sorted(_tables_of(source, names))
        if not paths:
            raise self._missing_error(source / f"*{names[-1]}*.parquet")
        for path in paths:
            rows: Iterator[tuple[int, dict[str, Any]]]
            if path.suffix == ".parquet":
                rows = read_parquet_rows(path, ("report", "summary"))
            else:
                rows = read_json_lines(path, ("report", "summary"))
            for number, row in rows:
                report, summary = row["report"] or "", row["summary"] or ""
                yield from self._record(report.strip(), summary.strip(), f"{path.stem}:{number}")

    def _record(self, context: str, summary: str, name: str) -> Iterator[Record]:
        if not context or not summary:
            self.skipped["report or summary is empty"] += 1
            return
        yield Record(context, _PROMPT, summary, id=name, source=self.name)


def _line(text: str | None) -> str:
    """A paragraph or title on one line; CRS reports have sections without a title."""
    return " ".join((text or "").split())


def _tables_of(folder: Path, names: list[str]) -> Iterator[Path]:
    """The .parquet and .jsonl files of a folder, or of document/ in it, that a split's name stands in."""
    pattern = re.compile(rf"(?<![a-z])({'|'.join(names)})(?![a-z])")
    for parent in (folder, folder / "document"):
        for path in parent.glob("*.*"):
            if path.suffix in (".parquet", ".jsonl") and pattern.search(path.name.lower()):
                yield path
