"""Have one system answer one item, and score the answer and the likelihood of the right one."""

import hashlib
from dataclasses import asdict, replace
from typing import Any

from e2llm.errors import ContextOverflowError
from e2llm.evaluation.items import Item, Task
from e2llm.evaluation.run.files import Prediction
from e2llm.evaluation.systems.base import System
from e2llm.inference.decoding.likelihood import Likelihood, answer_ids

_RESTATED_EXTRA_TOKENS = 8  # beyond half as many again, as `Engine.restate` allows


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
        return replace(asked, **_answered(task, system, item))
    except ContextOverflowError as error:
        return replace(asked, error=str(error))


def _answered(task: Task, system: System, item: Item) -> dict[str, Any]:
    """Return the fields of a prediction that an answer fills."""
    likelihoods: list[Likelihood] = []
    likely: dict[str, float] = {}
    if task.kind == "choose":
        likelihoods = system.score(item, item.options)
        likely = {"accuracy_likelihood": float(likeliest_option(likelihoods) == item.gold)}
    elif task.kind == "continue":
        likelihoods = system.score(item, item.references[:1])
        (found,) = likelihoods
        likely = {"token_accuracy": found.token_accuracy, "loss_nats": found.mean_loss_nats}
    numbers = [
        {name: getattr(found, name) for name in ("log_likelihood", "num_tokens", "num_greedy")}
        for found in likelihoods
    ]
    if not task.generates:
        return {"scores": likely, "likelihoods": numbers}
    output = system.answer(item, _longest_answer(task, system, item))
    return {
        "prediction": output.text,
        "scores": {**task.score(item, output.text), **likely},
        "likelihoods": numbers,
        "cost": asdict(output.cost),
        "given": output.given,
    }


def likeliest_option(likelihoods: list[Likelihood]) -> int:
    """Return the index of the option with the highest log-likelihood per token; of equal ones the first."""
    return min(range(len(likelihoods)), key=lambda index: likelihoods[index].mean_loss_nats)


def _longest_answer(task: Task, system: System, item: Item) -> int:
    """Return the most tokens of an answer; a restated text gets half as many again as it has, and a few."""
    if task.kind != "continue":
        return task.max_new_tokens
    length = len(answer_ids(system.engine.processor, item.references[0]))
    return min(task.max_new_tokens, length * 3 // 2 + _RESTATED_EXTRA_TOKENS)
