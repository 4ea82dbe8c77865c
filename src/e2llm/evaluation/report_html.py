"""The report as one HTML file: nothing is fetched, nothing runs, and whatever a model wrote is text."""

import base64
import html
import re
from collections.abc import Iterable, Sequence
from itertools import groupby

from e2llm.evaluation.readable import printable
from e2llm.evaluation.report_blocks import (
    MARK_SIGNS,
    MARK_WORDS,
    Block,
    Cell,
    Example,
    Figure,
    Paragraph,
    Report,
    Section,
    Subsection,
    Table,
)
from e2llm.evaluation.report_style import NUM_HEAT_STEPS, style_sheet

_BREAKS = re.compile(r"([:=,_/])(?=\w)")
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def html_report(report: Report) -> str:
    """The whole page."""
    links = "".join(f'<li><a href="#{part.name}">{escape(part.title)}</a></li>' for part in report.sections)
    facts = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in report.facts
    )
    notes = "".join(f"<li>{escape(note)}</li>" for note in report.notes)
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(report.title)}</title>",
            f"<style>{style_sheet()}</style>",
            "</head>",
            "<body>",
            f"<header><h1>{escape(report.title)}</h1>",
            f'<dl class="facts">{facts}</dl>',
            f'<ul class="notes" aria-label="Notes">{notes}</ul>' if notes else "",
            f'<nav aria-label="Sections"><ul>{links}</ul></nav></header>',
            "<main>",
            *(_section(section) for section in report.sections),
            "</main>",
            "</body>",
            "</html>",
            "",
        ]
    )


def escape(text: str) -> str:
    """Text as it stands between tags and in attributes."""
    return html.escape(printable(text), quote=True)


def _breakable(text: str) -> str:
    """Escaped text of a name that may be broken after its signs, where a column is narrow."""
    return "<wbr>".join(map(escape, _BREAKS.sub(r"\1\0", printable(text)).split("\0")))


def _section(section: Section) -> str:
    title = f'<h2 id="{section.name}-title">{escape(section.title)}</h2>'
    parts = []
    for is_heat, blocks in groupby(
        section.blocks, lambda block: isinstance(block, Table) and block.is_heat_map
    ):
        inner = "\n".join(map(_block, blocks))
        parts.append(f'<div class="maps">{inner}</div>' if is_heat else inner)
    body = "\n".join(parts)
    return (
        f'<section id="{section.name}" aria-labelledby="{section.name}-title">\n{title}\n{body}\n</section>'
    )


def _block(block: Block) -> str:
    match block:
        case Paragraph():
            return f"<p>{escape(block.text)}</p>"
        case Subsection():
            return f"<h3>{escape(block.title)}</h3>"
        case Table():
            return _table(block)
        case Figure():
            return _figure(block)
        case Example():
            return _example(block)


def _table(table: Table) -> str:
    head = "".join(
        f'<th scope="col"{" class=stub" if index < table.num_headers else ""}>{_breakable(title)}</th>'
        for index, title in enumerate(table.columns)
    )
    foot = f"<tfoot><tr>{_row(table, table.footer)}</tr></tfoot>" if table.footer else ""
    kind = ' class="words"' if table.is_text else ""
    text = (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(table.caption)}">'
        f"<table{kind}><caption>{escape(table.caption)}</caption><thead><tr>{head}</tr></thead>"
        f"{''.join(_bodies(table))}{foot}</table></div>"
    )
    if not table.folded:
        return text
    return f"<details><summary>{escape(table.caption)}</summary>{text}</details>"


def _bodies(table: Table) -> Iterable[str]:
    """The rows; those with the same first header share it, in a body of their own."""
    if table.num_headers == 1:
        yield "<tbody>" + "".join(f"<tr>{_row(table, row)}</tr>" for row in table.rows) + "</tbody>"
        return
    for first, group in groupby(table.rows, lambda row: row[0]):
        rows = list(group)
        name = f'<th scope="rowgroup" rowspan="{len(rows)}">{_content(first, is_name=True)}</th>'
        lines = [f"<tr>{_row(table, row[1:], inner=True)}</tr>" for row in rows]
        lines[0] = f'<tr class="group">{name}' + lines[0].removeprefix("<tr>")
        yield "<tbody>" + "".join(lines) + "</tbody>"


def _row(table: Table, cells: Sequence[Cell], *, inner: bool = False) -> str:
    kind = ' class="inner"' if inner else ""
    header = f'<th scope="row"{kind}>{_content(cells[0], is_name=True)}</th>'
    return header + "".join(_data(table, cell) for cell in cells[1:])


def _data(table: Table, cell: Cell) -> str:
    names = []
    if cell.mark == "best":
        names.append("best")
    if table.is_heat_map and cell.heat is not None:
        names.append(f"heat-{round(cell.heat * (NUM_HEAT_STEPS - 1))}")
    kind = f' class="{" ".join(names)}"' if names else ""
    return f"<td{kind}>{_content(cell)}</td>"


def _content(cell: Cell, *, is_name: bool = False) -> str:
    text = _breakable(cell.text) if is_name else escape(cell.text)
    if cell.mark:
        shown = f"<strong>{text}</strong>" if cell.mark == "best" else text
        words = f'<span class="hidden"> ({MARK_WORDS[cell.mark]})</span>'
        sign = f'<span class="sign" aria-hidden="true">{MARK_SIGNS[cell.mark]}</span>'
        text = f"{sign} {shown}{words}"
    if cell.details:
        text += f' <span class="small">{escape(cell.details)}</span>'
    if cell.refused:
        text += f' <span class="refused">{escape(cell.refused)}</span>'
    return text


def _figure(figure: Figure) -> str:
    """Its pictures; a figure without any is in the page as a table already."""
    parts = []
    for picture in figure.pictures:
        source = base64.b64encode(picture.svg.encode()).decode()
        parts.append(
            f"<figure><figcaption>{escape(picture.title)}</figcaption>"
            f'<img alt="{escape(picture.alt)}" src="data:image/svg+xml;base64,{source}"></figure>'
        )
    if not parts:
        return ""
    return f'<p>{escape(figure.caption)}</p><div class="pictures">{"".join(parts)}</div>'


def _example(example: Example) -> str:
    facts = f' <span class="small">{escape(example.facts)}</span>' if example.facts else ""
    parts = [f"<h4>Prompt</h4>{_text(example.prompt)}"]
    title = "Reference" if len(example.references) == 1 else "References"
    parts.append(f"<h4>{title}</h4>" + "\n".join(map(_text, example.references)))
    for answer in example.answers:
        scores = f": {escape(answer.scores)}" if answer.scores else ""
        kind = "refusal" if answer.is_refusal else ""
        parts.append(f"<h4>{escape(answer.system)}{scores}</h4>{_text(answer.text, kind)}")
    inside = "\n".join(parts)
    return (
        f"<details><summary>{escape(example.id)}{facts}</summary>"
        f'<div class="inside">\n{inside}\n</div></details>'
    )


def _text(text: str, kind: str = "") -> str:
    name = f' class="{kind}"' if kind else ""
    return f'<pre dir="auto"{name}>{escape(text) or "(nothing)"}</pre>'
