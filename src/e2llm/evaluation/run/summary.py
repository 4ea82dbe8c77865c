"""Sum up all predictions of a run: means, intervals, costs, breakdowns and paired tests."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from statistics import fmean, median

from e2llm.evaluation.items import Task
from e2llm.evaluation.metrics import g_mean, perplexity
from e2llm.evaluation.run.files import GroupScore, Interval, PairTest, Prediction, Row
from e2llm.evaluation.statistics import bootstrap_interval, bootstrap_interval_of, holm, paired_test

MAX_GROUP_VALUES = 16  # a key with more distinct values makes no breakdown

_MEANS = frozenset({"decoder_positions", "context_tokens", "context_fraction", "new_tokens"})


# Scores of a set of answers that are made of the means of other scores.
SET_SCORES: dict[str, tuple[tuple[str, ...], Callable[..., float]]] = {
    "g_mean": (("rouge_1", "rouge_2", "rouge_l"), g_mean),
    "perplexity": (("loss_nats",), perplexity),
}


def summarize(
    tasks: Sequence[Task], systems: Sequence[str], entries: Sequence[Prediction]
) -> tuple[list[Row], list[PairTest]]:
    """Sum up predictions.

    Intervals are 95% bootstrap intervals that draw the items of one context together; the tests change the
    signs of these together, too. P values are corrected by Holm's method within each task.

    Args:
        tasks: In the order of the rows.
        systems: Labels, in the order of the rows.
        entries: All predictions of the run.
    """
    found: dict[tuple[str, str], list[Prediction]] = {}
    for entry in entries:
        found.setdefault((entry.task, entry.system), []).append(entry)
    rows: list[Row] = []
    tests: list[PairTest] = []
    for task in tasks:
        present = {system: found[task.name, system] for system in systems if (task.name, system) in found}
        keys = _group_keys([entry for own in present.values() for entry in own])
        rows += [_row(task, system, own, keys) for system, own in present.items()]
        tests += _tests(task, present)
    return rows, tests


def _row(task: Task, system: str, entries: Sequence[Prediction], group_keys: Sequence[str]) -> Row:
    answered = [entry for entry in entries if entry.error is None]
    names = list(dict.fromkeys(name for entry in answered for name in entry.scores))
    names += [name for name, (parts, _) in SET_SCORES.items() if set(parts) <= set(names)]
    figures = {name: _figure(answered, name) for name in dict.fromkeys(names)}
    return Row(
        task=task.name,
        system=system,
        metric=task.metric,
        num_items=len(entries),
        num_refused=len(entries) - len(answered),
        values={name: value for name, (value, _) in figures.items()},
        intervals_95={name: interval for name, (_, interval) in figures.items()},
        cost=_cost(answered),
        groups={key: _groups(answered, key, task.metric) for key in group_keys},
        num_contexts=len({entry.context_sha256 for entry in entries}),
    )


def _figure(entries: Sequence[Prediction], name: str) -> tuple[float, Interval]:
    """Return a score of the set with its interval, over the entries that have it, of which there is one."""
    parts, figure = SET_SCORES.get(name, ((name,), None))
    having = [entry for entry in entries if all(part in entry.scores for part in parts)]
    if not having:  # a task's own score of that name, without the parts
        parts, figure = (name,), None
        having = [entry for entry in entries if name in entry.scores]
    columns = [[entry.scores[part] for entry in having] for part in parts]
    clusters = [entry.context_sha256 for entry in having]
    if figure is None:
        return fmean(columns[0]), bootstrap_interval(columns[0], clusters=clusters)
    return figure(*map(fmean, columns)), bootstrap_interval_of(columns, figure, clusters=clusters)


def _cost(answered: Sequence[Prediction]) -> dict[str, float]:
    """Return means of positions and tokens, and medians of times and memory, which have outliers."""
    costs = [entry.cost for entry in answered if entry.cost]
    found: dict[str, float] = {}
    for name in dict.fromkeys(name for cost in costs for name in cost):
        known = [cost[name] for cost in costs if cost.get(name) is not None]
        if known:
            found[name] = fmean(known) if name in _MEANS else median(known)
    return found


def _group_keys(entries: Sequence[Prediction]) -> list[str]:
    values: dict[str, set[str]] = {}
    for entry in entries:
        for key, value in entry.groups.items():
            values.setdefault(key, set()).add(str(value))
    return [key for key, found in values.items() if len(found) <= MAX_GROUP_VALUES]


def _groups(answered: Sequence[Prediction], key: str, metric: str) -> dict[str, GroupScore]:
    members: dict[str, list[Prediction]] = {}
    for entry in answered:
        if key in entry.groups and metric in entry.scores:
            members.setdefault(str(entry.groups[key]), []).append(entry)
    return {value: GroupScore(*_figure(own, metric), len(own)) for value, own in members.items()}


def _tests(task: Task, present: Mapping[str, Sequence[Prediction]]) -> list[PairTest]:
    """Test the metric of each pair of systems on the items that both answered."""
    scored = {
        system: {entry.id: entry for entry in entries if task.metric in entry.scores}
        for system, entries in present.items()
    }
    tests = []
    for system_a, system_b in combinations(scored, 2):
        pairs = [
            (entry, scored[system_b][name])
            for name, entry in scored[system_a].items()
            if name in scored[system_b]
        ]
        if pairs:
            test = paired_test(
                [first.scores[task.metric] for first, _ in pairs],
                [second.scores[task.metric] for _, second in pairs],
                clusters=[first.context_sha256 for first, _ in pairs],
            )
            tests.append(
                PairTest(
                    task.name,
                    task.metric,
                    system_a,
                    system_b,
                    test.difference,
                    test.interval_95,
                    test.p_value,
                    None,
                    test.num_pairs,
                )
            )
    corrected = holm([test.p_value for test in tests if test.p_value is not None])
    return [replace(test, p_holm=value) for test, value in zip(tests, corrected, strict=True)]
