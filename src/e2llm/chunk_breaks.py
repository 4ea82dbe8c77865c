"""Where a text may be cut: the natural breaks of running text and of source code.

A *break finder* gets `(text, start, floor, stop)` and returns the end of the chunk that begins at `start`: a
position in `[floor, stop]`, with `start < floor <= stop < len(text)`. The paper's chunker steps back to the
last natural break; the choice of breaks, the farthest step back, and the rule for code are ours.
"""

import re

# The share of a span that a step back must leave, as a divisor: a quarter for a sentence end or a line end,
# half for a clause or a space. Without a minimum, one early break would cut the text into crumbs.
_STRONG_DIVISOR = 4
_WEAK_DIVISOR = 2

_CLOSERS = "\"'”’»›)\\]}）」』】》〉］｝"
# Scripts without spaces end a sentence by the mark alone; "." is also part of numbers and names, so that it
# counts only before white space.
_LINE_ENDS = r"\n\v\f\x85\u2028\u2029"
_SPACED_ENDS, _BARE_ENDS = ".!?…؟۔։።", "。！？｡．।॥။"
_SPACED_CLAUSES, _BARE_CLAUSES = ",;:—–،؛", "，；：、､·"
_SPACED_TAIL, _BARE_TAIL = r"(?:[ \t\u00a0]+|(?=\s))", r"[ \t\u3000]*"

# `.*` runs to the end of the window and steps back in C: the first match is the last break. One set of all
# marks before the alternatives halves the time.
_LAST_STRONG = re.compile(
    rf"(?s:.*)[{_LINE_ENDS}\r{_SPACED_ENDS}{_BARE_ENDS}]"
    rf"(?:(?<=[{_SPACED_ENDS}])[{_CLOSERS}]*{_SPACED_TAIL}|(?<=[{_BARE_ENDS}])[{_CLOSERS}]*{_BARE_TAIL}"
    rf"|(?<=[{_LINE_ENDS}])|(?<=\r)(?!\n))"
)
_LAST_CLAUSE = re.compile(
    rf"(?s:.*)[{_SPACED_CLAUSES}{_BARE_CLAUSES}]"
    rf"(?:(?<=[{_SPACED_CLAUSES}]){_SPACED_TAIL}|(?<=[{_BARE_CLAUSES}]){_BARE_TAIL})"
)
_LAST_SPACE = re.compile(r"(?s:.*)\s")
_LAST_BLANK_LINE = re.compile(r"(?s:.*)\n[ \t]*\r?\n")
_LAST_LINE = re.compile(r"(?s:.*)\n")

# The end of a sentence: a mark and what closes it, before white space.
SENTENCE_END = re.compile(r"[.!?][\"'”’)]*(?=\s)")

_INDENT = r"[ \t]{0,4}"
_MODIFIERS = (
    r"export|default|declare|async|public|private|protected|internal|static|final|abstract|sealed|partial|"
    r"override|virtual|inline|extern|unsafe|const|open|data|case|typedef|pub(?:\([a-z]{1,9}\))?"
)
_KEYWORDS = (
    r"def|class|func|fn|function|fun|interface|struct|enum|trait|impl|mod|module|namespace|record|macro_rules"
)
_STATEMENTS = r"if|else|for|foreach|while|do|switch|match|select|catch|with|using|lock|return|await|yield|new"
_ATTACHED = rf"{_INDENT}(?:@|#|//|/\*|\*)"  # a decorator, an attribute or a comment line
# A function of the C family has no keyword: a name and a parenthesis, and a brace at the end of the line or
# below; its type may be alone on the line above. A statement begins with one of its keywords instead.
_FUNCTION = (
    rf"(?!{_INDENT}(?:{_STATEMENTS})\b)(?:[A-Za-z_][\w *&:<>,]{{1,60}}\n(?P<name>))?"
    rf"{_INDENT}(?!(?:{_STATEMENTS})\b)[A-Za-z_~<][\w *&:<>,\[\]~?]{{0,100}}"
    rf"\([^\n;]{{0,200}}\)[^\n;(){{}}=]{{0,80}}\n?{_INDENT}\{{"
)
# Attached lines directly above a definition go with it; the bounds keep the search linear in the text, and
# `+` behind them keeps it from going back into lines that it has passed.
_DEFINITION = re.compile(
    rf"\n(?=(?:{_ATTACHED}[^\n]{{0,200}}+\n){{0,16}}+"
    rf"(?:{_INDENT}(?:(?:{_MODIFIERS}) +){{0,5}}"
    rf"(?:(?:{_KEYWORDS})\b|(?:public|private|protected)\b|type [A-Za-z_]"
    r"|\w{1,40} ?= ?(?:async ?)?\([^\n]{0,200}=>)"
    rf"|{_FUNCTION}))"
)
_ATTACHED_LINE = re.compile(rf"{_ATTACHED}[^\n]*\n")
_DEFINITION_LOOKAHEAD_CHARS = 512


def find_prose_break(text: str, start: int, floor: int, stop: int) -> int:
    """Return the last natural break of running text, as the paper's chunker does.

    In this order: the last line end (so also paragraph break) or sentence end that leaves at least a quarter
    of the span; the last clause end, then the last white space, that leaves at least half; `stop` itself.
    White space stays at the end of its chunk.

    Args:
        text: The whole document.
        start: Where the chunk begins.
        floor: The smallest position that may be returned.
        stop: The largest position that may be returned.

    Returns:
        The end of the chunk, in `[floor, stop]`.
    """
    size = stop - start
    strong = max(floor, start + size // _STRONG_DIVISOR) - 1
    weak = max(floor, start + size // _WEAK_DIVISOR) - 1
    # One character more than the span holds, so that a sentence or word ending at its very edge is seen.
    found = (
        _LAST_STRONG.match(text, strong, stop + 1)
        or _LAST_CLAUSE.match(text, weak, stop + 1)
        or _LAST_SPACE.match(text, weak, stop + 1)
    )
    return min(found.end(), stop) if found else stop


def find_code_break(text: str, start: int, floor: int, stop: int) -> int:
    """Return a break of program text that keeps definitions whole if possible.

    In this order, each leaving at least a quarter of the span: before the last definition indented by at
    most four characters (its decorators and comment lines stay with it), after the last blank line, at the
    last line end; then as `find_prose_break`, whose arguments and result it has. The paper has no rule for
    code.
    """
    low = max(floor, start + (stop - start) // _STRONG_DIVISOR)
    before_definition = _last_definition(text, start, low, stop)
    if before_definition is not None:
        return before_definition
    found = _LAST_BLANK_LINE.match(text, max(low - 2, 0), stop) or _LAST_LINE.match(text, low - 1, stop)
    return found.end() if found else find_prose_break(text, start, floor, stop)


def _last_definition(text: str, start: int, low: int, stop: int) -> int | None:
    """Return where the last definition with its decorators begins, in `[low, stop]`, if there is one."""
    last = None
    covered = _skip_attached_lines(text, start, stop)
    for match in _DEFINITION.finditer(text, start, stop + _DEFINITION_LOOKAHEAD_CHARS):
        place = match.end()
        if place > stop:
            break
        if place <= covered:  # a further decorator, or the definition under one
            continue
        covered = max(_skip_attached_lines(text, place, stop), match.end("name"))
        if place >= low:
            last = place
    return last


def _skip_attached_lines(text: str, position: int, stop: int) -> int:
    """Return the position after the decorator and comment lines that begin at `position` and end by `stop`.

    A line that continues beyond `stop` has no place to cut, and is not read to its end: it may be the text.
    """
    while position < stop and (line := _ATTACHED_LINE.match(text, position, stop)):
        position = line.end()
    return position
