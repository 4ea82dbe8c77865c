"""The evaluation: every item of every task, answered by every system, into a folder that can go on.

Items are asked task by task, one after the other, of all systems in turn, so that a context is read once for
all its questions and all systems of a model.
"""

import gc
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from e2llm.errors import E2LLMError
from e2llm.evaluation.answering import answer_item
from e2llm.evaluation.items import Item, Task, TaskRequest
from e2llm.evaluation.prediction_file import PredictionFile
from e2llm.evaluation.record_tasks import RecordTask
from e2llm.evaluation.report import write_report
from e2llm.evaluation.run_facts import (
    describe_session,
    hash_of_data,
    hash_of_texts,
    provenance,
    what_to_know,
)
from e2llm.evaluation.run_files import SCORES_NAME
from e2llm.evaluation.run_settings import RunSettings, check_same, joined, read_settings
from e2llm.evaluation.score_summary import summarize
from e2llm.evaluation.shipped_samples import default_haystacks
from e2llm.evaluation.system_specs import create_systems, parse_systems
from e2llm.evaluation.systems import System
from e2llm.evaluation.tasks import create_task
from e2llm.files import write_atomically
from e2llm.inference.documents import load_documents
from e2llm.inference.engine import Engine
from e2llm.modeling.identity import model_fingerprint

EngineOf = Callable[[str | None], Engine]


@dataclass(frozen=True)
class RunRequest:
    """What is evaluated.

    Attributes:
        tasks: Names, as `create_task` takes them.
        systems: Labels, as `parse_systems` takes them.
        model: Folder, hub id, or name of an embedded model.
        limit: Most items of a task, for generated tasks of each length.
        lengths: Of generated contexts, in decoder tokens.
        seed: Of all draws.
        budget: Decoder positions for input and answer of every system; None for the decoder's window.
        data: Folder with data sets; None for what is shipped.
        haystack: A text file, or a folder of them, to hide things in; None for the shipped stories.
        code: Folder of source code for code completion; None for this package.
        command: How the run was asked for, for its files.
    """

    tasks: Sequence[str]
    systems: Sequence[str]
    model: str = "smol"
    limit: int = 50
    lengths: Sequence[int] = (4096,)
    seed: int = 0
    budget: int | None = None
    data: Path | None = None
    haystack: Path | None = None
    code: Path | None = None
    command: str = ""


class Engines:
    """Loads each model once.

    Args:
        model: The one that is meant where none is named.
        device: See `Engine.from_pretrained`.
        chunk_size_chars: Longest chunk; None for each model's own.
    """

    def __init__(self, model: str, device: str | None = None, chunk_size_chars: int | None = None) -> None:
        self.model, self.device, self.chunk_size_chars = model, device, chunk_size_chars
        self._loaded: dict[str, Engine] = {}

    def __call__(self, name: str | None) -> Engine:
        """The engine of a model."""
        name = name or self.model
        if name not in self._loaded:
            engine = Engine.from_pretrained(name, device=self.device)
            if self.chunk_size_chars is not None:
                engine.processor.chunk_size_chars = self.chunk_size_chars
            self._loaded[name] = engine
        return self._loaded[name]


@dataclass(frozen=True)
class PreparedRun:
    """A run that is ready to begin or go on."""

    tasks: Mapping[str, Task]
    systems: Mapping[str, System]
    items: TaskRequest
    settings: RunSettings


def evaluate(
    request: RunRequest, folder: Path, engine_of: EngineOf, *, progress: bool | None = None
) -> dict[str, Any]:
    """Run an evaluation, or go on with the one in the folder, and write its files.

    A folder that holds a run with the same settings goes on where it stopped; tasks, systems and items that
    it does not have yet are added to it. docs/evaluation.md says what each file holds.

    Args:
        request: What is evaluated.
        folder: Made if need be.
        engine_of: Gives the engine of a model by name; of None, that of the request's model.
        progress: Show a bar; by default on a terminal.

    Returns:
        The content of scores.json.

    Raises:
        E2LLMError: If the request cannot be served, the folder holds a run with other settings, or an item
            fails; what was answered before stays in the folder.
        FileNotFoundError: If a file or folder is missing.
    """
    before = read_settings(folder)
    if before is not None:
        request = replace(
            request,
            tasks=joined(list(before.tasks), request.tasks),
            systems=joined(before.systems, request.systems),
        )
    run = prepare(request, engine_of)
    if before is not None:
        check_same(before, run.settings, folder)
        sessions = [*before.sessions, *run.settings.sessions]
        run = replace(run, settings=replace(run.settings, model=before.model, sessions=sessions))
    check_items(run)
    folder.mkdir(parents=True, exist_ok=True)
    with PredictionFile(folder) as predictions:
        if read_settings(folder) != before:
            raise E2LLMError(
                f"another run wrote to {folder} just now; give the command again, or another folder"
            )
        run.settings.write(folder)
        with cheap_collections():
            answer_all(run, predictions, sys.stderr.isatty() if progress is None else progress)
        summary = summarize(list(run.tasks.values()), list(run.systems), predictions.entries())
    notes = what_to_know(run.tasks.values(), run.systems)
    scores = {"provenance": provenance(run.settings, notes), **summary}
    content = json.dumps(scores, indent=2, ensure_ascii=False) + "\n"
    write_atomically(folder / SCORES_NAME, content.encode("utf-8", "surrogatepass"))
    write_report(folder)
    return scores


def prepare(request: RunRequest, engine_of: EngineOf) -> PreparedRun:
    """Make tasks and systems, and find out what fixes their answers.

    Raises:
        E2LLMError: If something asked for does not exist or does not go together.
        FileNotFoundError: If a file or folder is missing.
    """
    if not request.tasks or not request.systems:
        raise E2LLMError("name at least one task and one system; 'e2llm eval --list' shows them")
    for name, place in (("data sets", request.data), ("source code", request.code)):
        if place is not None and not place.is_dir():
            raise FileNotFoundError(f"no such folder of {name}: {place}")
    specs = parse_systems(",".join(request.systems))
    tasks = {name: create_task(name) for name in dict.fromkeys(request.tasks)}
    data_hashes = {name: hash_of_data(task, request.data) for name, task in tasks.items()}
    haystacks = read_haystacks(request.haystack)
    engine = engine_of(None)
    window = engine.window
    if request.budget is not None and window is not None and request.budget > window:
        raise E2LLMError(
            f"a budget of {request.budget:,} positions is more than the decoder's window of {window:,}"
        )
    settings = RunSettings(
        model=request.model,
        model_sha256=model_fingerprint(engine.model, engine.processor),
        other_models={
            spec.model: model_fingerprint(engine_of(spec.model).model, engine_of(spec.model).processor)
            for spec in specs
            if spec.model is not None
        },
        tasks={
            name: {"max_new_tokens": task.max_new_tokens, "data_sha256": data_hashes[name]}
            for name, task in tasks.items()
        },
        systems=[spec.label for spec in specs],
        limit=request.limit,
        lengths=list(request.lengths),
        seed=request.seed,
        budget=request.budget,
        chunk_size_chars=engine.processor.chunk_size_chars,
        precision=str(engine.model.language_model.dtype).removeprefix("torch."),
        device=engine.device.type,
        haystacks_sha256=hash_of_texts(haystacks),
        sessions=[describe_session(engine.device, request.command)],
    )
    items = TaskRequest(
        count_tokens=engine.count_tokens,
        limit=request.limit,
        seed=request.seed,
        data=request.data,
        haystacks=haystacks,
        lengths=request.lengths,
        code=request.code,
    )
    return PreparedRun(tasks, create_systems(specs, engine_of, request.budget), items, settings)


def read_haystacks(path: Path | None) -> tuple[str, ...]:
    """The texts of a file or folder; the shipped stories where none is named."""
    if path is None:
        return default_haystacks()
    return tuple(document.text for document in load_documents([path]))


def check_items(run: PreparedRun) -> None:
    """Make the first item of each task and score its own reference: what fails would only fail hours later.

    Raises:
        E2LLMError: If a task has no items, or cannot make them.
        FileNotFoundError: If a file of the data is missing.
        MissingExtraError: If a library that scores is not installed.
    """
    for name, task in run.tasks.items():
        item = next(iter(task.items(run.items)), None)
        if item is None:
            raise E2LLMError(f"{name} has no items with these settings; raise --limit or --lengths")
        task.score(item, item.references[0])


def answer_all(run: PreparedRun, predictions: PredictionFile, progress: bool) -> None:
    """Answer what has no answer yet, in the order of tasks, items and systems.

    Raises:
        E2LLMError: If an item fails in another way than by being refused; it is named.
    """
    most = {name: _most_items(task, run.items) * len(run.systems) for name, task in run.tasks.items()}
    with tqdm(total=sum(most.values()), unit="answer", disable=not progress, dynamic_ncols=True) as bar:
        for name, task in run.tasks.items():
            bar.set_description(name)
            start = bar.n
            for item in task.items(run.items):
                for label, system in run.systems.items():
                    if not predictions.holds(name, label, item):
                        predictions.add(_answer(task, label, system, item))
                    bar.update()
            bar.total += bar.n - start - most[name]


@contextmanager
def cheap_collections() -> Iterator[None]:
    """Leave all that is in memory now out of garbage collections, of which each measured answer has two.

    They went through every object of every library otherwise, which takes longer than a short answer.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _answer(task: Task, label: str, system: System, item: Item) -> dict[str, Any]:
    try:
        return answer_item(task, label, system, item)
    except Exception as error:
        what = str(error) if isinstance(error, E2LLMError) else f"{type(error).__name__}: {error}"
        raise E2LLMError(
            f"{task.name}, item {item.id}, system {label}: {what}; what was answered before is kept"
        ) from error


def _most_items(task: Task, request: TaskRequest) -> int:
    """Items that a task has at most, for the bar."""
    return request.limit * (1 if isinstance(task, RecordTask) else len(request.lengths))
