"""The items of a long JSON list, one at a time: some data sets are one document of hundreds of megabytes."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from e2llm.errors import E2LLMError

_READ_CHARS = 1 << 20
_LONGEST_LITERAL = 20  # a number, word or escape that is cut off is reported this near to the end at most
_NUMBER_GOES_ON = len("e+1")  # what must be seen after a value: cut short, it may be a number's beginning
_SPACES = re.compile(r"[ \t\n\r]*")


def read_json_items(path: Path, key: str | None = None) -> Iterator[tuple[int, Any]]:
    """The items of a JSON list with their numbers from 1, without holding the document in memory.

    Args:
        path: The file: a JSON list, or an object that holds the list.
        key: Where the list is in the object; None for a file that is a list.

    Raises:
        E2LLMError: If the file is not UTF-8, not JSON, or has no such list; with the line, or the number of
            the item.
    """
    with path.open(encoding="utf-8-sig") as stream:
        reader = _Reader(path, stream)
        try:
            if key is not None:
                _enter(reader, key)
            reader.take("[", "a list" if key is None else f"a list under {key!r}")
            number = 0
            while reader.peek() != "]":
                if number:
                    reader.take(",", f"a comma or the end of the list after item {number}")
                number += 1
                yield number, reader.value()
        except UnicodeDecodeError as error:
            raise E2LLMError(f"{path}: not UTF-8 ({error.reason}); take the file as published") from error


def _enter(reader: "_Reader", key: str) -> None:
    """Read an object up to the value of a key."""
    reader.take("{", "a JSON object")
    while reader.peek() == '"':
        name = reader.value()
        reader.take(":", f"a colon after {name!r}")
        if name == key:
            return
        reader.value()
        if reader.peek() != ",":
            break
        reader.take(",", "a comma")
    raise reader.error(f"missing key(s) {key}")


class _Reader:
    """JSON values of a stream, with no more in memory than the value at hand needs."""

    def __init__(self, path: Path, stream: TextIO) -> None:
        self._path = path
        self._stream = stream
        self._decode = json.JSONDecoder().raw_decode
        self._buffer = ""
        self._position = 0
        self._line = 1
        self._is_at_end = False

    def peek(self) -> str:
        """The next character that is no space; empty at the end of the file."""
        while True:
            spaces = _SPACES.match(self._buffer, self._position)
            assert spaces is not None
            self._go_to(spaces.end())
            if self._position < len(self._buffer) or self._is_at_end:
                return self._buffer[self._position : self._position + 1]
            self._read_more()

    def take(self, character: str, wanted: str) -> None:
        """Pass over a character that must come next."""
        found = self.peek()
        if found != character:
            raise self.error(f"expected {wanted}, found {found or 'the end of the file'!r}")
        self._position += 1

    def value(self) -> Any:
        """The next value."""
        self.peek()
        while True:
            try:
                value, end = self._decode(self._buffer, self._position)
            except json.JSONDecodeError as error:
                if not self._may_go_on(error):
                    self._go_to(error.pos)
                    raise self.error(f"not valid JSON: {error.msg}") from error
            except (ValueError, RecursionError) as error:  # a number of too many digits, nesting too deep
                raise self.error(f"not valid JSON: {error}") from error
            else:
                if end + _NUMBER_GOES_ON <= len(self._buffer) or self._is_at_end:
                    self._go_to(end)
                    return value
            self._read_more()

    def error(self, problem: str) -> E2LLMError:
        """An error at the place where the reader stands."""
        return E2LLMError(f"{self._path}:{self._line}: {problem}")

    def _may_go_on(self, error: json.JSONDecodeError) -> bool:
        """Whether a value is no mistake but cut off by the end of what was read."""
        if self._is_at_end:
            return False
        is_near_end = error.pos >= len(self._buffer) - _LONGEST_LITERAL
        return is_near_end or error.msg.startswith("Unterminated string")

    def _go_to(self, position: int) -> None:
        self._line += self._buffer.count("\n", self._position, position)
        self._position = position

    def _read_more(self) -> None:
        rest = self._buffer[self._position :]
        piece = self._stream.read(max(_READ_CHARS, len(rest)))  # doubled: few tries for a long value
        self._is_at_end = not piece
        self._buffer, self._position = rest + piece, 0
