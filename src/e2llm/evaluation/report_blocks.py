"""What a report consists of, before it is HTML or Markdown: sections of tables, figures and examples.

Texts in here are raw; each form escapes them in its own way.
"""

from dataclasses import dataclass
from typing import Literal

Mark = Literal["", "best", "near"]

MARK_WORDS: dict[Mark, str] = {
    "best": "best",
    "near": "not significantly worse than the best",
}
MARK_SIGNS: dict[Mark, str] = {"best": "★", "near": "≈"}


@dataclass(frozen=True)
class Cell:
    """A place in a table.

    Attributes:
        text: What it says.
        details: Said smaller, below.
        refused: Refused items in words; empty where there are none.
        mark: Standing among the systems.
        heat: Where its value lies between the worst, 0, and the best, 1; None outside of heat maps.
    """

    text: str
    details: str = ""
    refused: str = ""
    mark: Mark = ""
    heat: float | None = None


@dataclass(frozen=True)
class Table:
    """Rows under column titles.

    Attributes:
        caption: What it shows; every table has one.
        columns: Titles, those of the row headers among them.
        rows: Cells, one per column.
        num_headers: Leading columns that name the row, 1 or 2; of two, the first names a group of rows.
        footer: A last row on all others; may be empty.
        folded: Whether it starts closed.
        is_heat_map: Whether its cells are coloured by their heat.
        is_text: Whether its cells are words, not numbers.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    num_headers: int = 1
    footer: tuple[Cell, ...] = ()
    folded: bool = False
    is_heat_map: bool = False
    is_text: bool = False


@dataclass(frozen=True)
class Picture:
    """A drawing as SVG.

    Attributes:
        title: Its name among its neighbours.
        alt: What is to be seen, with the numbers.
        svg: The drawing.
    """

    title: str
    alt: str
    svg: str


@dataclass(frozen=True)
class Figure:
    """Drawings that belong together: each as SVG, and all of them as one PNG.

    Attributes:
        name: Of the PNG's file, without its ending.
        caption: What they show.
        pictures: One per task; none where only the PNG shows what tables already do.
        png: All in one.
        alt: What the PNG shows.
    """

    name: str
    caption: str
    pictures: tuple[Picture, ...]
    png: bytes
    alt: str


@dataclass(frozen=True)
class Answer:
    """What a system said to an example, or why it refused.

    Attributes:
        system: Its name.
        text: The answer or the reason.
        scores: In words.
        is_refusal: Whether the text is a reason.
    """

    system: str
    text: str
    scores: str
    is_refusal: bool


@dataclass(frozen=True)
class Example:
    """An item with the answers of all systems; starts closed."""

    id: str
    facts: str
    prompt: str
    references: tuple[str, ...]
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Paragraph:
    """Some sentences."""

    text: str


@dataclass(frozen=True)
class Subsection:
    """A heading within a section."""

    title: str


Block = Paragraph | Table | Figure | Example | Subsection


@dataclass(frozen=True)
class Section:
    """A heading with what stands under it.

    Attributes:
        name: For links; letters and dashes.
        title: The heading.
        blocks: In order.
    """

    name: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Report:
    """The whole.

    Attributes:
        title: Its name.
        facts: What it is of: names and values.
        notes: What a reader must know first.
        sections: In order, none of them empty.
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    sections: tuple[Section, ...]
