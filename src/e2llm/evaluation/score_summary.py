"""scores.json: what all predictions of a run come to."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from statistics import fmean, median
from typing import Any

from e2llm.evaluation.items import Task
from e2llm.evaluation.metrics import g_mean, perplexity
from e2llm.evaluation.statistics import bootstrap_interval, bootstrap_interval_of, holm, paired_test

MAX_GROUP_VALUES = 16  # a key with more distinct values is no breakdown

Entry = Mapping[str, Any]

_MEANS = frozenset({"decoder_positions", "context_tokens", "context_fraction", "new_tokens"})


def _g_mean(rouge_1: float, rouge_2: float, rouge_l: float) -> float:
    return g_mean({"rouge_1": rouge_1, "rouge_2": rouge_2, "rouge_l": rouge_l})


# Scores of a set of answers that are no mean of those of each: made of the means of others.
SET_SCORES: dict[str, tuple[tuple[str, ...], Callable[..., float]]] = {
    "g_mean": (("rouge_1", "rouge_2", "rouge_l"), _g_mean),
    "perplexity": (("loss_nats",), perplexity),
}


def summarize(tasks: Sequence[Task], systems: Sequence[str], entries: Iterable[Entry]) -> dict[str, Any]:
    """Sum up predictions.

    Intervals are 95% bootstrap intervals in which the items of one context are drawn together; so do the
    tests change the signs of these together. P values are corrected by Holm's method within each task.

    Args:
        tasks: In the order in which they are listed.
        systems: Their names, likewise.
        entries: Lines of predictions.jsonl.

    Returns:
        `tasks`, `rows` and `comparisons` of scores.json (docs/evaluation.md).
    """
    found: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        found.setdefault((entry["task"], entry["system"]), []).append(entry)
    rows, comparisons = [], []
    for task in tasks:
        keys = _group_keys([entry for system in systems for entry in found.get((task.name, system), [])])
        present = {system: found[task.name, system] for system in systems if (task.name, system) in found}
        rows += [_row(task, system, own, keys) for system, own in present.items()]
        comparisons += _comparisons(task, present)
    facts = {
        task.name: {
            "metric": task.metric,
            "description": task.description,
            "kind": task.kind,
            "max_new_tokens": task.max_new_tokens,
        }
        for task in tasks
    }
    return {"tasks": facts, "rows": rows, "comparisons": comparisons}


def _row(task: Task, system: str, entries: Sequence[Entry], group_keys: Sequence[str]) -> dict[str, Any]:
    answered = [entry for entry in entries if entry["error"] is None]
    names = list(dict.fromkeys(name for entry in answered for name in entry["scores"]))
    names += [name for name, (parts, _) in SET_SCORES.items() if set(parts) <= set(names)]
    figures = {name: _figure(answered, name) for name in dict.fromkeys(names)}
    return {
        "task": task.name,
        "system": system,
        "metric": task.metric,
        "num_items": len(entries),
        "num_refused": len(entries) - len(answered),
        "num_contexts": len({entry["context_sha256"] for entry in entries}),
        "values": {name: value for name, (value, _) in figures.items()},
        "intervals_95": {name: interval for name, (_, interval) in figures.items()},
        "cost": _cost(answered),
        "groups": {key: _groups(answered, key, task.metric) for key in group_keys},
    }


def _figure(entries: Sequence[Entry], name: str) -> tuple[float, tuple[float, float]]:
    """A score of the set with its interval, over the entries that have it, of which there is one at least."""
    parts, figure = SET_SCORES.get(name, ((name,), None))
    having = [entry for entry in entries if all(part in entry["scores"] for part in parts)]
    if not having:  # a task's own score of that name, without the parts
        parts, figure = (name,), None
        having = [entry for entry in entries if name in entry["scores"]]
    columns = [[entry["scores"][part] for entry in having] for part in parts]
    clusters = [entry["context_sha256"] for entry in having]
    if figure is None:
        return fmean(columns[0]), bootstrap_interval(columns[0], clusters=clusters)
    return figure(*map(fmean, columns)), bootstrap_interval_of(columns, figure, clusters=clusters)


def _cost(answered: Sequence[Entry]) -> dict[str, float]:
    """Means of positions and tokens, medians of times and memory, which have outliers."""
    costs = [entry["cost"] for entry in answered if entry["cost"]]
    found: dict[str, float] = {}
    for name in dict.fromkeys(name for cost in costs for name in cost):
        known = [cost[name] for cost in costs if cost.get(name) is not None]
        if known:
            found[name] = fmean(known) if name in _MEANS else median(known)
    return found


def _group_keys(entries: Sequence[Entry]) -> list[str]:
    values: dict[str, set[str]] = {}
    for entry in entries:
        for key, value in entry["groups"].items():
            values.setdefault(key, set()).add(str(value))
    return [key for key, found in values.items() if len(found) <= MAX_GROUP_VALUES]


def _groups(answered: Sequence[Entry], key: str, metric: str) -> dict[str, Any]:
    members: dict[str, list[Entry]] = {}
    for entry in answered:
        if key in entry["groups"] and metric in entry["scores"]:
            members.setdefault(str(entry["groups"][key]), []).append(entry)
    groups = {}
    for value, own in members.items():
        figure, interval = _figure(own, metric)
        groups[value] = {"value": figure, "interval": interval, "num_items": len(own)}
    return groups


def _comparisons(task: Task, present: Mapping[str, Sequence[Entry]]) -> list[dict[str, Any]]:
    """Paired tests of the metric for each pair of systems, on the items that both answered."""
    scored = {
        system: {entry["id"]: entry for entry in entries if task.metric in entry["scores"]}
        for system, entries in present.items()
    }
    tests: list[dict[str, Any]] = []
    for system_a, system_b in combinations(scored, 2):
        shared = [name for name in scored[system_a] if name in scored[system_b]]
        if not shared:
            continue
        test = paired_test(
            [scored[system_a][name]["scores"][task.metric] for name in shared],
            [scored[system_b][name]["scores"][task.metric] for name in shared],
            clusters=[scored[system_a][name]["context_sha256"] for name in shared],
        )
        facts = {"task": task.name, "metric": task.metric, "system_a": system_a, "system_b": system_b}
        result = {
            "difference": test.difference,
            "interval_95": test.interval_95,
            "p_value": test.p_value,
            "num_pairs": test.num_pairs,
        }
        tests.append({**facts, **result})
    corrected = holm([test["p_value"] for test in tests])
    return [{**test, "p_holm": p_value} for test, p_value in zip(tests, corrected, strict=True)]
