"""RULER's needle tasks and variable tracking (Hsieh et al. 2024, arXiv 2404.06654, sections 3.1 and 3.2).

The needle's sentence and the questions are the published ones; the noise and the words are ours.
docs/ruler.md lists the differences.
"""

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from string import ascii_uppercase
from typing import Any, ClassVar, Literal

from e2llm.data.needles.hiding import Passage, draw_number, draw_uuid, draw_words, hide
from e2llm.evaluation.items import TaskRequest
from e2llm.evaluation.tasks.ruler.haystacks import Haystack, essay, noise
from e2llm.evaluation.tasks.ruler.ruler_task import CHARS_PER_TOKEN, Draft, RulerTask

Kind = Literal["words", "numbers", "uuids"]
NEEDLE = "One of the special magic {kind} for {key} is: {value}."
HEATMAP_DEPTHS_PERCENT = tuple(range(0, 101, 10))
VARIABLES_QUESTION = (
    "Find all variables that are assigned the value {value} in the text above. There are {num_names} of them."
)
_DRAWS: dict[Kind, Callable[[random.Random], str]] = {
    "words": draw_words,
    "numbers": draw_number,
    "uuids": draw_uuid,
}
_SEARCHED_CHARS_PER_TOKEN = 8  # a haystack is searched this far for values that it happens to hold
_NUM_EXAMPLE_LINES = 10


class NeedleTask(RulerTask):
    """Sentences `One of the special magic KIND for KEY is: VALUE.` in a haystack; some keys are asked.

    Attributes:
        haystack: `noise`: five dull sentences over and over; `essay`: the given texts; `needles`: further
            needles with other keys.
        key_kind: Kind of the keys.
        value_kind: Kind of the values.
        num_keys: Keys in the haystack, those of `needles` not counted.
        num_values: Values of each key.
        num_queries: Keys asked for.
    """

    max_new_tokens: ClassVar[int] = 128
    haystack: ClassVar[Literal["noise", "essay", "needles"]] = "essay"
    key_kind: ClassVar[Kind] = "words"
    value_kind: ClassVar[Kind] = "numbers"
    num_keys: ClassVar[int] = 1
    num_values: ClassVar[int] = 1
    num_queries: ClassVar[int] = 1

    def _prepare(self, request: TaskRequest) -> Haystack:
        return essay(request.haystacks) if self.haystack == "essay" else noise()

    def _draft(self, shared: Haystack, rng: random.Random, length: int, index: int) -> Draft:
        searched = shared.cut(_SEARCHED_CHARS_PER_TOKEN * length)
        keys = _distinct(rng, self.key_kind, self.num_keys, searched)
        values = _distinct(rng, self.value_kind, self.num_keys * self.num_values, searched)
        pairs = [(keys[number // self.num_values], value) for number, value in enumerate(values)]
        depths = self._depths(rng, len(pairs), index)
        asked = rng.sample(keys, self.num_queries)
        needles = [self._needle(key, value) for key, value in pairs]
        gold = [number for number, (key, _) in enumerate(pairs) if key in asked]
        hay = shared if self.haystack != "needles" else Haystack(self._others(rng, keys, values), "\n")

        def build(num_chars: int) -> Passage:
            passage = hide(hay.cut(num_chars), hay.joint, needles, depths)
            return Passage(passage.text, tuple(sorted(passage.spans[number] for number in gold)))

        return Draft(
            build,
            first_size=CHARS_PER_TOKEN * length,
            prompt=self._question(asked),
            references=tuple(value for name in asked for key, value in pairs if key == name),
            groups=self._groups(index),
        )

    def _needle(self, key: str, value: str) -> str:
        return NEEDLE.format(kind=self.value_kind, key=key, value=value)

    def _others(self, rng: random.Random, keys: Sequence[str], values: Sequence[str]) -> Iterator[str]:
        """Yield needles without end, with other keys and values than those asked for."""
        while True:
            key, value = _DRAWS[self.key_kind](rng), _DRAWS[self.value_kind](rng)
            if key not in keys and value not in values:
                yield self._needle(key, value)

    def _question(self, asked: Sequence[str]) -> str:
        names = asked[0] if len(asked) == 1 else f"{', '.join(asked[:-1])}, and {asked[-1]}"
        if self.num_values * self.num_queries == 1:
            one = self.value_kind.removesuffix("s")
            return f"What is the special magic {one} for {names} mentioned in the provided text?"
        return f"What are all the special magic {self.value_kind} for {names} mentioned in the provided text?"

    def _depths(self, rng: random.Random, count: int, index: int) -> list[float]:
        return [rng.random() for _ in range(count)]

    def _groups(self, index: int) -> Mapping[str, int]:
        return {}


class NeedleHeatMap(NeedleTask):
    """One number in the given texts at eleven depths, for each length; the items take the depths in turn.

    The limit is that of a length, so a depth has `limit // 11` items, at least one.
    """

    name: ClassVar[str] = "niah_heatmap"
    description: ClassVar[str] = "one number hidden in a long text at each of 11 depths"

    def _num_items(self, limit: int) -> int:
        return max(1, limit // len(HEATMAP_DEPTHS_PERCENT)) * len(HEATMAP_DEPTHS_PERCENT)

    def _depths(self, rng: random.Random, count: int, index: int) -> list[float]:
        return [self._groups(index)["depth_percent"] / 100] * count

    def _groups(self, index: int) -> dict[str, int]:
        return {"depth_percent": HEATMAP_DEPTHS_PERCENT[index % len(HEATMAP_DEPTHS_PERCENT)]}


def _needle_task(name: str, description: str, **settings: Any) -> type[NeedleTask]:
    """Return the class of a needle task with some attributes of `NeedleTask`."""
    attributes = {"name": name, "description": f"RULER: {description}", "__doc__": f"RULER's `{name}`."}
    return type(name, (NeedleTask,), {**attributes, **settings})


NEEDLE_TASKS = (
    _needle_task("niah_single_1", "one number hidden in repeated sentences", haystack="noise"),
    _needle_task("niah_single_2", "one number hidden in a long text"),
    _needle_task("niah_single_3", "one UUID hidden in a long text", value_kind="uuids"),
    _needle_task(
        "niah_multikey_1", "four numbers hidden in a long text, one asked for by its key", num_keys=4
    ),
    _needle_task("niah_multikey_2", "one of very many keys with numbers", haystack="needles"),
    _needle_task(
        "niah_multikey_3",
        "one of very many UUIDs that are keys of UUIDs",
        haystack="needles",
        key_kind="uuids",
        value_kind="uuids",
    ),
    _needle_task(
        "niah_multivalue", "four numbers of one key hidden in a long text, all asked for", num_values=4
    ),
    _needle_task(
        "niah_multiquery",
        "four numbers hidden in a long text, all asked for by their keys",
        num_keys=4,
        num_queries=4,
    ),
)


class VariableTracking(RulerTask):
    """One chain of assignments in noise: a variable gets a number, four more get it in turn; all are asked.

    A short solved example comes before it, as in the published code.
    """

    name: ClassVar[str] = "vt"
    description: ClassVar[str] = "RULER: all variables that get a number along a chain of assignments"
    max_new_tokens: ClassVar[int] = 30
    num_hops: ClassVar[int] = 4

    def _prepare(self, request: TaskRequest) -> Haystack:
        return noise()

    def _draft(self, shared: Haystack, rng: random.Random, length: int, index: int) -> Draft:
        value, example_value = (str(number) for number in rng.sample(range(10_000, 100_000), 2))
        names, example_names = self._names(rng, 5), self._names(rng, 3)
        chain, depths = self._chain(names, value), self._depths(rng)
        lines = "\n".join(shared.cut(_NUM_EXAMPLE_LINES * 100).split("\n")[:-1])
        solved = hide(lines, shared.joint, self._chain(example_names, example_value), self._depths(rng)).text
        question = VARIABLES_QUESTION.format(value=example_value, num_names=len(example_names))
        intro = "Follow the assignments of variables in this text.\n\n"
        example = f"{intro}{solved}\nQuestion: {question}\nAnswer: {' '.join(example_names)}\n\n{intro}"
        return Draft(
            lambda num_chars: hide(shared.cut(num_chars), shared.joint, chain, depths).after(example),
            first_size=CHARS_PER_TOKEN * length - len(example),
            prompt=VARIABLES_QUESTION.format(value=value, num_names=len(names)),
            references=tuple(names),
        )

    def _names(self, rng: random.Random, num_letters: int) -> list[str]:
        names: dict[str, None] = {}
        while len(names) <= self.num_hops:
            names["".join(rng.choices(ascii_uppercase, k=num_letters))] = None
        return list(names)

    def _depths(self, rng: random.Random) -> list[float]:
        return sorted(rng.random() for _ in range(self.num_hops + 1))

    @staticmethod
    def _chain(names: Sequence[str], value: str) -> list[str]:
        further = (f"VAR {name} = VAR {other}" for other, name in itertools.pairwise(names))
        return [f"VAR {names[0]} = {value}", *further]


def _distinct(rng: random.Random, kind: Kind, count: int, text: str) -> list[str]:
    """Draw different keys or values that a text does not hold by chance."""
    drawn: dict[str, None] = {}
    while len(drawn) < count:
        value = _DRAWS[kind](rng)
        if value not in text:
            drawn[value] = None
    return list(drawn)
