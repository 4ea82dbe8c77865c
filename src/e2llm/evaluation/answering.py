"""One item under one system: what it says, how likely it finds what is right, and the scores of both."""

from dataclasses import asdict
from typing import Any

from e2llm.errors import ContextOverflowError
from e2llm.evaluation.items import Item, Task
from e2llm.evaluation.prediction_file import describe_item
from e2llm.evaluation.systems import System
from e2llm.inference.decoding.likelihood import Likelihood, answer_ids

_RESTATED_EXTRA_TOKENS = 8  # beyond half as many again, as `Engine.restate` allows


def answer_item(task: Task, label: str, system: System, item: Item) -> dict[str, Any]:
    """Have a system answer an item and score it.

    Tasks of kind `choose` are answered twice: by words, and by the option with the highest likelihood per
    token (`accuracy_likelihood`; chosen here, so that long options are not at a disadvantage; of equal ones
    the first). Those of kind `continue` are scored by the likelihood of the first reference.

    Args:
        task: The item's.
        label: The system's name.
        system: Who answers.
        item: The question.

    Returns:
        A line of predictions.jsonl (docs/evaluation.md). If the system refuses the item, `error` says why.
    """
    entry: dict[str, Any] = {
        "task": task.name,
        "system": label,
        **describe_item(item),
        "prediction": "",
        "scores": {},
        "likelihoods": [],
        "cost": None,
        "given": None,
        "error": None,
    }
    try:
        return {**entry, **_answered(task, system, item)}
    except ContextOverflowError as error:
        return {**entry, "error": str(error)}


def _answered(task: Task, system: System, item: Item) -> dict[str, Any]:
    """What the answer changes of the entry."""
    likelihoods: list[Likelihood] = []
    likely: dict[str, float] = {}
    if task.kind == "choose":
        likelihoods = system.score(item, item.options)
        likely = {"accuracy_likelihood": float(likeliest_option(likelihoods) == item.gold)}
    elif task.kind == "continue":
        likelihoods = system.score(item, item.references[:1])
        (found,) = likelihoods
        likely = {"token_accuracy": found.token_accuracy, "loss_nats": found.mean_loss_nats}
    changes: dict[str, Any] = {"scores": likely, "likelihoods": [_numbers(found) for found in likelihoods]}
    if task.generates:
        output = system.answer(item, _longest_answer(task, system, item))
        changes |= {"prediction": output.text, "cost": asdict(output.cost), "given": output.given}
        changes["scores"] = {**task.score(item, output.text), **likely}
    return changes


def likeliest_option(likelihoods: list[Likelihood]) -> int:
    """Index of the option with the highest mean log-likelihood of a token; of equal ones the first."""
    return min(range(len(likelihoods)), key=lambda index: likelihoods[index].mean_loss_nats)


def _longest_answer(task: Task, system: System, item: Item) -> int:
    """Tokens that an answer may have; a restated text gets half as many again as it has, and a few."""
    if task.kind != "continue":
        return task.max_new_tokens
    length = len(answer_ids(system.engine.processor, item.references[0]))
    return min(task.max_new_tokens, length * 3 // 2 + _RESTATED_EXTRA_TOKENS)


def _numbers(found: Likelihood) -> dict[str, float]:
    return {
        "log_likelihood": found.log_likelihood,
        "num_tokens": found.num_tokens,
        "num_greedy": found.num_greedy,
    }
