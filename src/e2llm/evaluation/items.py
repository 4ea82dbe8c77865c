"""Items, and the tasks that make and score them. Text in, text out: a task knows no model."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

TaskKind = Literal["generate", "choose", "continue"]


@dataclass(frozen=True, slots=True)
class Item:
    """One question on one text.

    Attributes:
        task: Name of its task.
        id: A name that is unique within its task and the same in every run with the same settings.
        context: The long text.
        prompt: The instruction, options included where there are any.
        references: Right answers, at least one; the task decides whether any or all of them are wanted.
        options: Texts of the choices, in the order of their letters A, B, C, ...; for `choose` tasks.
        gold: Index of the right option.
        evidence: Character spans `(start, end)` of `context` that hold the answer, where known.
        groups: Keys to break scores down by, such as `length_tokens`, `depth_percent` or `difficulty`.
    """

    task: str
    id: str
    context: str
    prompt: str
    references: tuple[str, ...]
    options: tuple[str, ...] = ()
    gold: int | None = None
    evidence: tuple[tuple[int, int], ...] = ()
    groups: Mapping[str, str | int | float] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskRequest:
    """What tasks make their items of.

    Attributes:
        count_tokens: Decoder tokens of a text; lengths are counted with it.
        limit: Most items, for generated tasks per length.
        seed: Fixes every draw.
        data: Folder with the data sets; None for those in the package only.
        haystacks: Texts that generated tasks hide things in; never empty.
        lengths: Lengths of generated contexts, in decoder tokens, the question not included.
        code: Folder of source code for code completion; None for the installed package of this project.
    """

    count_tokens: Callable[[str], int]
    limit: int
    seed: int = 0
    data: Path | None = None
    haystacks: Sequence[str] = ()
    lengths: Sequence[int] = (4096,)
    code: Path | None = None


class Task(ABC):
    """A kind of question with its scores.

    Attributes:
        name: Name on the command line.
        description: One sentence.
        metric: The score that tables and tests use.
        kind: `generate`: the answer is generated and scored; `choose`: one of the options is; `continue`:
            the references' likelihood is measured.
        max_new_tokens: Longest answer.
        generates: Whether an answer is generated, too; only tasks of kind `continue` may do without one.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    metric: ClassVar[str]
    kind: ClassVar[TaskKind] = "generate"
    max_new_tokens: ClassVar[int] = 64
    generates: ClassVar[bool] = True

    @abstractmethod
    def items(self, request: TaskRequest) -> Iterator[Item]:
        """Make the items, the same ones for the same request; the first n do not depend on the limit.

        Raises:
            E2LLMError: If the request cannot be served: data are missing, a length is too short.
            FileNotFoundError: If a file of the data is missing.
        """

    @abstractmethod
    def score(self, item: Item, prediction: str) -> dict[str, float]:
        """Return the scores of a prediction by name, each from 0 to 1 unless its name has a unit."""

    def max_items(self, request: TaskRequest) -> int:
        """Return the most items that there are, for a progress bar."""
        return request.limit * len(request.lengths)

    def data_file(self, data: Path | None) -> Path | None:
        """Return the file or folder that the items come from; None where they are generated.

        Raises:
            E2LLMError: If the task needs a data set that is missing.
            FileNotFoundError: If a file is missing.
        """
        return None
