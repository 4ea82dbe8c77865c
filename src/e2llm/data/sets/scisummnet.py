"""SciSummNet (Yasunaga et al. 2019, arXiv 1909.01716): scientific papers with summaries written by people."""

from collections.abc import Iterator
from xml.etree import ElementTree

from e2llm.data.data_set import Conversion, Records, data_set

_FOLDER = "data/Training-Set-2019/Task2/From-ScisummNet-2019"
_PAPERS = "*/Reference_XML/*.xml"


@data_set(
    "scisummnet",
    description="scientific papers without their abstract, to summarize",
    licence="CC BY 4.0",
    home="https://github.com/WING-NUS/scisumm-corpus",
    layout=f"the repository's folder with {_FOLDER}/{_PAPERS} and */summary/*_human.txt",
    published_counts={"train": 978},
)
def scisummnet(run: Conversion) -> Records:
    """Yield one record per paper: its text without the marked abstract, and the summary without its title.

    Old scanned papers have no marked abstract and no sections; their text is kept whole.
    """
    for path in run.files(f"{_FOLDER}/{_PAPERS}", _PAPERS):
        context = _body(run.xml(path))
        summary = run.text(path.parents[1] / "summary" / f"{path.stem}.scisummnet_human.txt")
        _, _, answer = summary.strip().partition("\n")  # the first line is the title
        if not answer.strip() or not context:
            run.skip("no summary but the title" if context else "no text but the title")
            continue
        yield run.record(context, "Summarize the paper.", " ".join(answer.split()), id=path.stem)


def _body(root: ElementTree.Element) -> str:
    """Return title and text of a paper without its marked abstract; empty if there is only the title."""
    opening = [sentence for part in root if part.tag == "S" for sentence in _sentences(part)]
    blocks = [" ".join(opening)]
    for section in root.iter("SECTION"):
        title = " ".join(section.get("title", "").split())
        parts = (part for part in section if part.tag != "SECTION")
        text = " ".join(sentence for part in parts for sentence in _sentences(part))
        blocks.append(f"{title}\n{text}".strip())
    blocks = [block for block in blocks if block]
    return "\n\n".join(blocks) if len(opening) > 1 or len(blocks) > 1 else ""


def _sentences(part: ElementTree.Element) -> Iterator[str]:
    """Yield the sentences of an element, each on one line."""
    for sentence in part.iter("S"):
        text = " ".join("".join(sentence.itertext()).split())
        if text:
            yield text
