"""SciSummNet (Yasunaga et al. 2019, arXiv 1909.01716): scientific papers with summaries written by people."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from xml.etree import ElementTree

from e2llm.data.converter import Converter
from e2llm.data.source_files import read_text
from e2llm.records import Record

_FOLDER = Path("data") / "Training-Set-2019" / "Task2" / "From-ScisummNet-2019"
_PROMPT = "Summarize the paper."


@dataclass
class SciSummNetConverter(Converter):
    """One record per paper: its text without the marked abstract, and the summary without its title line.

    Old scanned papers have no marked abstract and no sections; their text is kept whole.
    """

    name = "scisummnet"
    description = "scientific papers without their abstract, to summarize"
    licence = "CC BY 4.0"
    home = "https://github.com/WING-NUS/scisumm-corpus"
    layout = (
        f"the repository's folder with {_FOLDER.as_posix()}/*/Reference_XML/*.xml and */summary/*_human.txt"
    )
    published_counts: ClassVar[Mapping[str, int]] = {"train": 978}

    def _records(self, source: Path, split: str) -> Iterator[Record]:
        root = source / _FOLDER if (source / _FOLDER).is_dir() else source
        papers = sorted(root.glob("*/Reference_XML/*.xml"))
        if not papers:
            raise self._missing_error(root / "*/Reference_XML/*.xml")
        for path in papers:
            name = path.stem
            summary = path.parent.parent / "summary" / f"{name}.scisummnet_human.txt"
            if not summary.is_file():
                raise self._missing_error(summary)
            _, _, answer = read_text(summary).strip().partition("\n")  # the first line is the title
            context = self._body(path)
            if not answer.strip() or not context:
                self.skipped["no summary but the title" if context else "no text but the title"] += 1
                continue
            yield Record(context, _PROMPT, " ".join(answer.split()), id=name, source=self.name)

    def _body(self, path: Path) -> str:
        """Title and text of a paper, without its marked abstract; empty if there is only the title."""
        try:
            root = ElementTree.fromstring(path.read_bytes())
        except ElementTree.ParseError as error:
            raise self._layout_error(path, f"not valid XML ({error})") from error
        opening = [sentence for part in root if part.tag == "S" for sentence in _sentences(part)]
        blocks = [" ".join(opening)]
        for section in root.iter("SECTION"):
            title = " ".join(section.get("title", "").split())
            text = " ".join(
                sentence for part in section if part.tag != "SECTION" for sentence in _sentences(part)
            )
            blocks.append(f"{title}\n{text}".strip())
        blocks = [block for block in blocks if block]
        has_text = len(opening) > 1 or len(blocks) > 1
        return "\n\n".join(blocks) if has_text else ""


def _sentences(part: ElementTree.Element) -> Iterator[str]:
    """The sentences of an element, each on one line."""
    for sentence in part.iter("S"):
        text = " ".join("".join(sentence.itertext()).split())
        if text:
            yield text
