"""Run an evaluation: every item of every task, answered by every system, into a folder that can be resumed.

Items are asked task by task, one after the other, of all systems in turn, so that a context is read once for
all its questions and all systems of a model.
"""

import gc
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from e2llm.errors import ContextOverflowError, E2LLMError
from e2llm.evaluation.items import Item, Task, TaskRequest
from e2llm.evaluation.report.report import write_report
from e2llm.evaluation.run.predictions import Prediction, PredictionFile, open_predictions, read_predictions
from e2llm.evaluation.run.run_settings import (
    RunSettings,
    check_same,
    describe_session,
    hash_of_file,
    hash_of_texts,
    read_settings,
)
from e2llm.evaluation.run.scores import SCORES_NAME, RunScores, TaskFacts, summarize
from e2llm.evaluation.systems import System, create_systems, parse_systems
from e2llm.evaluation.tasks import create_task
from e2llm.evaluation.tasks.record_sources import default_haystacks
from e2llm.files import write_atomically
from e2llm.inference.decoding.likelihood import Likelihood, answer_ids
from e2llm.inference.engine import Engine
from e2llm.modeling.identity import model_fingerprint

EngineOf = Callable[[str | None], Engine]
_RESTATED_EXTRA_TOKENS = 8  # beyond half as many again, as `Engine.restate` allows


@dataclass(frozen=True)
class RunRequest:
    """What to evaluate.

    Attributes:
        tasks: Names, as `create_task` takes them.
        systems: Labels, as `parse_systems` takes them.
        model: Folder, hub id, or name of an embedded model.
        limit: Most items of a task, for generated tasks of each length.
        lengths: Lengths of generated contexts, in decoder tokens.
        seed: Fixes all draws.
        budget: Decoder positions for input and answer of every system; None for the decoder's window.
        data: Folder with data sets; None for those in the package.
        command: Command line that asked for the run, for its files.
    """

    tasks: Sequence[str]
    systems: Sequence[str]
    model: str = "smol"
    limit: int = 50
    lengths: Sequence[int] = (4096,)
    seed: int = 0
    budget: int | None = None
    data: Path | None = None
    command: str = ""


class Engines:
    """Loads each model once.

    Args:
        model: Model to load where none is named.
        device: See `Engine.from_pretrained`.
    """

    def __init__(self, model: str, device: str | None = None) -> None:
        self.model, self.device = model, device
        self._loaded: dict[str, Engine] = {}

    def __call__(self, name: str | None) -> Engine:
        """Return the engine of a model."""
        name = name or self.model
        if name not in self._loaded:
            self._loaded[name] = Engine.from_pretrained(name, device=self.device)
        return self._loaded[name]


@dataclass(frozen=True)
class PreparedRun:
    """A run that is ready to start or resume."""

    tasks: Mapping[str, Task]
    systems: Mapping[str, System]
    items: TaskRequest
    settings: RunSettings


def evaluate(
    request: RunRequest, folder: Path, engine_of: EngineOf, *, progress: bool | None = None
) -> dict[str, Any]:
    """Run an evaluation, or resume the one in the folder, and write its files.

    A folder that has a run with the same settings is resumed where it stopped; tasks, systems and items
    that it does not have yet are added to it. docs/evaluation.md describes each file.

    Args:
        request: What to evaluate.
        folder: Made if it does not exist.
        engine_of: Returns the engine of a model by name; for None, that of the request's model.
        progress: Show a progress bar; by default on a terminal.

    Returns:
        The content of scores.json.

    Raises:
        E2LLMError: If the request cannot be served, the folder has a run with other settings, or an item
            fails; everything answered so far stays in the folder.
        FileNotFoundError: If a file or folder is missing.
    """
    before = read_settings(folder)
    if before is not None:
        request = replace(
            request,
            tasks=list(dict.fromkeys([*before.tasks, *request.tasks])),
            systems=list(dict.fromkeys([*before.systems, *request.systems])),
        )
    run = prepare_run(request, engine_of)
    if before is not None:
        check_same(before, run.settings, folder)
        sessions = [*before.sessions, *run.settings.sessions]
        run = replace(run, settings=replace(run.settings, model=before.model, sessions=sessions))
    check_items(run)
    folder.mkdir(parents=True, exist_ok=True)
    with open_predictions(folder) as predictions:
        if read_settings(folder) != before:
            raise E2LLMError(
                f"another run wrote to {folder} at the same time; repeat the command, or name another folder"
            )
        run.settings.write(folder)
        with cheap_collections():
            answer_all(run, predictions, sys.stderr.isatty() if progress is None else progress)
        entries = list(read_predictions(predictions.file))
        rows, tests = summarize(list(run.tasks.values()), list(run.systems), entries)
    facts = {
        name: TaskFacts(task.metric, task.description, task.kind, task.max_new_tokens)
        for name, task in run.tasks.items()
    }
    scores = asdict(RunScores(run.settings.provenance(notes_of(run)), facts, rows, tests))
    content = json.dumps(scores, indent=2, ensure_ascii=False) + "\n"
    write_atomically(folder / SCORES_NAME, content.encode("utf-8", "surrogatepass"))
    write_report(folder)
    return scores


def prepare_run(request: RunRequest, engine_of: EngineOf) -> PreparedRun:
    """Make tasks and systems, and collect the settings that their answers depend on.

    Raises:
        E2LLMError: If a task, a system or data do not exist or do not go together.
        FileNotFoundError: If a file or folder is missing.
    """
    if not request.tasks or not request.systems:
        raise E2LLMError("name at least one task and one system; 'e2llm eval --list' shows them")
    if request.data is not None and not request.data.is_dir():
        raise FileNotFoundError(f"no such folder: --data {request.data}")
    specs = parse_systems(",".join(request.systems))
    tasks = {name: create_task(name) for name in dict.fromkeys(request.tasks)}
    data_files = {name: task.data_file(request.data) for name, task in tasks.items()}
    haystacks = default_haystacks()
    engine = engine_of(None)
    others = {spec.model: engine_of(spec.model) for spec in specs if spec.model is not None}
    settings = RunSettings(
        model=request.model,
        model_sha256=model_fingerprint(engine.model, engine.processor),
        other_models={name: model_fingerprint(one.model, one.processor) for name, one in others.items()},
        tasks={
            name: {"max_new_tokens": task.max_new_tokens, "data_sha256": hash_of_file(data_files[name])}
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
    )
    return PreparedRun(tasks, create_systems(specs, engine_of, request.budget), items, settings)


def check_items(run: PreparedRun) -> None:
    """Make the first item of each task and score its own reference: else a failure would show hours later.

    Raises:
        E2LLMError: If a task has no items, or cannot make them.
        FileNotFoundError: If a file of the data is missing.
        MissingExtraError: If a library that scores is not installed.
    """
    for name, task in run.tasks.items():
        item = next(iter(task.items(run.items)), None)
        if item is None:
            raise E2LLMError(f"{name} has no items at these --lengths; raise --limit or --lengths")
        task.score(item, item.references[0])


def answer_all(run: PreparedRun, predictions: PredictionFile, progress: bool) -> None:
    """Answer every item without an answer so far, in the order of tasks, items and systems.

    Raises:
        E2LLMError: If an item fails in another way than by being refused; the message names it.
    """
    most = {name: task.max_items(run.items) * len(run.systems) for name, task in run.tasks.items()}
    with tqdm(total=sum(most.values()), unit="answer", disable=not progress, dynamic_ncols=True) as bar:
        for name, task in run.tasks.items():
            bar.set_description(name)
            start = bar.n
            for item in task.items(run.items):
                for label, system in run.systems.items():
                    if asked_of(task, label, item) not in predictions:
                        predictions.add(_answer(task, label, system, item))
                    bar.update()
            bar.total += bar.n - start - most[name]


def _answer(task: Task, label: str, system: System, item: Item) -> Prediction:
    try:
        return answer_item(task, label, system, item)
    except Exception as error:
        what = str(error) if isinstance(error, E2LLMError) else f"{type(error).__name__}: {error}"
        raise E2LLMError(
            f"{task.name}, item {item.id}, system {label}: {what}; everything answered so far is kept"
        ) from error


@contextmanager
def cheap_collections() -> Iterator[None]:
    """Leave everything in memory now out of garbage collections, of which each measured answer has two.

    Otherwise they visit every object of every library, which takes longer than a short answer.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def asked_of(task: Task, label: str, item: Item) -> Prediction:
    """Return the prediction of a system on an item, without an answer so far."""
    digest = hashlib.sha256(item.context.encode("utf-8", "surrogatepass")).hexdigest()
    return Prediction(
        task.name, label, item.id, item.prompt, digest, list(item.references), dict(item.groups)
    )


def answer_item(task: Task, label: str, system: System, item: Item) -> Prediction:
    """Have a system answer an item and score it.

    Tasks of kind `choose` are answered twice: by words, and by the option with the highest likelihood per
    token (`accuracy_likelihood`; per token, so that long options are not at a disadvantage; of equal ones
    the first). Those of kind `continue` are scored by the likelihood of the first reference.

    Args:
        task: Task of the item.
        label: Name of the system in the files.
        system: Answers.
        item: Question and context.

    Returns:
        The prediction. If the system refuses the item, `error` has the reason.
    """
    asked = asked_of(task, label, item)
    try:
        likelihoods, scores = _score_likelihoods(task, system, item)
        numbers = [
            {name: getattr(found, name) for name in ("log_likelihood", "num_tokens", "num_greedy")}
            for found in likelihoods
        ]
        if not task.generates:
            return replace(asked, scores=scores, likelihoods=numbers)
        output = system.answer(item, _longest_answer(task, system, item))
    except ContextOverflowError as error:
        return replace(asked, error=str(error))
    return replace(
        asked,
        prediction=output.text,
        scores={**task.score(item, output.text), **scores},
        likelihoods=numbers,
        cost=asdict(output.cost),
        given=output.given,
    )


def _score_likelihoods(task: Task, system: System, item: Item) -> tuple[list[Likelihood], dict[str, float]]:
    """Return the likelihoods that a task asks for, and the scores made of them."""
    if task.kind == "choose":
        options = system.score(item, item.options)
        return options, {"accuracy_likelihood": float(likeliest_option(options) == item.gold)}
    if task.kind == "continue":
        (found,) = system.score(item, item.references[:1])
        return [found], {"token_accuracy": found.token_accuracy, "loss_nats": found.mean_loss_nats}
    return [], {}


def likeliest_option(likelihoods: list[Likelihood]) -> int:
    """Return the index of the option with the highest log-likelihood per token; of equal ones the first."""
    return min(range(len(likelihoods)), key=lambda index: likelihoods[index].mean_loss_nats)


def _longest_answer(task: Task, system: System, item: Item) -> int:
    """Return the most tokens of an answer; a restated text gets half as many again as it has, and a few."""
    if task.kind != "continue":
        return task.max_new_tokens
    length = len(answer_ids(system.engine.processor, item.references[0]))
    return min(task.max_new_tokens, length * 3 // 2 + _RESTATED_EXTRA_TOKENS)


def notes_of(run: PreparedRun) -> list[str]:
    """Return notes about tasks without a question, where systems choose by it or can copy the text."""
    choosing = ", ".join(label for label, system in run.systems.items() if system.chooses_by_question)
    showing = ", ".join(label for label, system in run.systems.items() if system.gives_text)
    notes = []
    for name, task in run.tasks.items():
        if task.kind == "continue" and not task.generates and choosing:
            notes.append(
                f"{name} asks no question: {choosing} chose passages by the words of its prompt alone, so "
                "its scores do not show how well they choose."
            )
        if task.kind == "continue" and task.generates and showing:
            notes.append(
                f"{name}: {showing} had the text itself in the input and could copy it, which is another "
                "task than restating it from soft tokens."
            )
    return notes
