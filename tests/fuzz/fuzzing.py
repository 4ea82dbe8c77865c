"""What the fuzz tests share: how many examples, damaged bytes, JSON with something else in one place.

`E2LLM_FUZZ_EXAMPLES` sets the examples of each test; the default keeps a file to a few seconds. The same
examples come every time.
"""

import copy
import json
import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from e2llm.errors import E2LLMError

EXAMPLES = int(os.environ.get("E2LLM_FUZZ_EXAMPLES", "40"))
bounded = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
    ],
)
HUGE = "9" * 5000  # more digits than Python turns into an integer
DEEP = "[" * 20_000

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, -1, 1, 2**31, 2**63, 10**30]),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["", "\0", "../x", "/etc/passwd", "\ud800", "é漢", "nan", "x" * 300]),
)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def damaged(draw: Callable[..., Any], data: bytes) -> bytes:
    """Bytes with some of them changed, cut off, taken out, doubled or put in."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(changed) - 1, 0)))
        kind = draw(st.sampled_from(["flip", "cut", "drop", "double", "insert", "zero"]))
        length = draw(st.integers(1, 40))
        if kind == "flip" and changed:
            changed[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del changed[at:]
        elif kind == "drop":
            del changed[at : at + length]
        elif kind == "double":
            changed[at:at] = changed[at : at + length]
        elif kind == "insert":
            changed[at:at] = draw(st.binary(max_size=40))
        else:
            changed[at : at + length] = bytes(min(length, len(changed) - at))
    return bytes(changed)


def places(tree: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to all values of nested lists and mappings, the whole included."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [way, *(place for key, value in items for place in places(value, (*way, key)))]


@st.composite
def altered(draw: Callable[..., Any], tree: Any, values: st.SearchStrategy[Any] = json_values) -> Any:
    """A JSON tree in which one to three values are others, are gone, or have a neighbour."""
    changed = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        way = draw(st.sampled_from(places(changed)[1:] or [()]))
        if not way:
            return draw(values)
        parent = changed
        for key in way[:-1]:
            parent = parent[key]
        kind = draw(st.sampled_from(["other", "other", "gone", "neighbour"]))
        if kind == "other":
            parent[way[-1]] = draw(values)
        elif kind == "gone":
            del parent[way[-1]]
        elif isinstance(parent, dict):
            parent[draw(st.text(max_size=6))] = draw(values)
        else:
            parent.insert(way[-1], draw(values))
    return changed


def as_json(value: Any) -> bytes:
    """JSON as Python writes it, `NaN` and lone surrogates included."""
    return json.dumps(value).encode()


def refused(action: Callable[[], Any], *names: object) -> Any:
    """What an action returns; None if it raises an error for the user that has one of the names in it."""
    try:
        return action()
    except (E2LLMError, FileNotFoundError) as error:
        text = str(error)
        assert not names or any(str(name) in text for name in names), text
        assert "Traceback" not in text
        return None
