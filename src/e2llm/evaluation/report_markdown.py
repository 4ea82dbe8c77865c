"""The report as Markdown that GitHub shows; whatever a model wrote stands in fences that it cannot close."""

import html
import re

from e2llm.evaluation.readable import on_one_line, printable
from e2llm.evaluation.report_blocks import (
    MARK_SIGNS,
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

_MARKS = re.compile(r"([\\`*_\[\]#|~$])")
_BACKTICKS = re.compile(r"`+")


def markdown_report(report: Report, plots: str) -> str:
    """The whole text.

    Args:
        report: What to write.
        plots: Folder of the figures' PNG files, seen from the report.
    """
    parts = [f"# {escape_markdown(report.title)}"]
    if report.facts:
        parts.append(
            "\n".join(f"- {escape_markdown(name)}: {escape_markdown(value)}" for name, value in report.facts)
        )
    if report.notes:
        parts.append("\n".join(f"> {escape_markdown(note)}\n>" for note in report.notes).removesuffix("\n>"))
    for section in report.sections:
        parts += _section(section, plots)
    return "\n\n".join(part for part in parts if part) + "\n"


def escape_markdown(text: str) -> str:
    """Text on one line that Markdown shows as it is, in a table's cell, too."""
    line = on_one_line(text)
    line = _MARKS.sub(r"\\\1", line)
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def fenced(text: str) -> str:
    """Text as a block that shows every character; its fence is longer than any within."""
    text = printable(text)
    longest = max((len(run) for run in _BACKTICKS.findall(text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def _section(section: Section, plots: str) -> list[str]:
    return [f"## {escape_markdown(section.title)}", *(_block(block, plots) for block in section.blocks)]


def _block(block: Block, plots: str) -> str:
    match block:
        case Paragraph():
            return escape_markdown(block.text)
        case Subsection():
            return f"### {escape_markdown(block.title)}"
        case Table():
            return _table(block)
        case Figure():
            return f"![{escape_markdown(block.alt)}]({plots}/{block.name}.png)"
        case Example():
            return _example(block)


def _table(table: Table) -> str:
    align = [
        ":--" if index < table.num_headers or table.is_text else "--:" for index in range(len(table.columns))
    ]
    lines = [
        _line([escape_markdown(title) for title in table.columns]),
        _line(align),
        *(_line([_content(cell) for cell in row]) for row in table.rows),
    ]
    if table.footer:
        lines.append(_line([_content(cell) for cell in table.footer]))
    text = "\n".join(lines)
    if table.folded or table.is_heat_map:
        return _details(table.caption, text)
    return f"{escape_markdown(table.caption)}:\n\n{text}"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _content(cell: Cell) -> str:
    text = escape_markdown(cell.text)
    if cell.mark:
        text = (
            f"**{text}** {MARK_SIGNS['best']}" if cell.mark == "best" else f"{text} {MARK_SIGNS[cell.mark]}"
        )
    parts = [text, escape_markdown(cell.details)]
    if cell.refused:
        parts.append(f"**{escape_markdown(cell.refused)}**")
    return "<br>".join(part for part in parts if part)


def _example(example: Example) -> str:
    parts = [f"Prompt:\n\n{fenced(example.prompt)}"]
    parts += [f"Reference:\n\n{fenced(reference)}" for reference in example.references]
    for answer in example.answers:
        scores = f": {escape_markdown(answer.scores)}" if answer.scores else ""
        parts.append(f"**{escape_markdown(answer.system)}**{scores}\n\n{fenced(answer.text)}")
    facts = f" ({example.facts})" if example.facts else ""
    return _details(f"{example.id}{facts}", "\n\n".join(parts))


def _details(summary: str, body: str) -> str:
    """A folded part. Its first line is HTML, in which Markdown's escapes would show."""
    summary = html.escape(on_one_line(summary))
    return f"<details><summary>{summary}</summary>\n\n{body}\n\n</details>"
