import math
from dataclasses import asdict
from statistics import fmean

import pytest

from e2llm.evaluation.metrics import perplexity
from e2llm.evaluation.run.predictions import Prediction
from e2llm.evaluation.run.scores import summarize
from e2llm.evaluation.statistics import bootstrap_interval, holm, paired_test
from e2llm.evaluation.tasks import TASKS
from e2llm.evaluation.tasks.continuations import PerplexityTask

COST = {"decoder_positions": 100, "read_seconds": 1.0, "peak_extra_bytes": None}


def entry(system, number, scores, task="fairytaleqa", **changes):
    facts = {"context_sha256": str(number), "references": ["x"], "scores": scores, "cost": COST, **changes}
    return Prediction(task, system, str(number), "?", **facts)


def row_of(entries, task=TASKS["fairytaleqa"]):
    (row,), _ = summarize([task()], ["a"], entries)
    return asdict(row)


def test_scores_are_means_and_their_intervals_draw_the_items_of_a_context_together():
    values = [0.1, 0.2, 0.9, 0.8, 0.5]
    contexts = ["x", "x", "y", "y", "z"]
    entries = [
        entry("a", number, {"rouge_l": value}, context_sha256=context)
        for number, (value, context) in enumerate(zip(values, contexts, strict=True))
    ]
    row = row_of(entries)
    assert row["values"]["rouge_l"] == pytest.approx(0.5)
    assert row["intervals_95"]["rouge_l"] == bootstrap_interval(values, clusters=contexts)
    assert row["intervals_95"]["rouge_l"] != bootstrap_interval(values)
    assert (row["num_items"], row["num_contexts"]) == (5, 3)


def test_the_g_mean_of_a_set_is_that_of_the_mean_scores():
    rouge = [
        {"rouge_1": 0.5, "rouge_2": 0.0, "rouge_l": 0.4},
        {"rouge_1": 0.3, "rouge_2": 0.2, "rouge_l": 0.2},
    ]
    entries = [
        entry("a", number, {"g_mean": 0.0, **scores}, task="qmsum", groups={"kind": "all"})
        for number, scores in enumerate(rouge * 4)
    ]
    row = row_of(entries, TASKS["qmsum"])
    assert row["values"]["g_mean"] == pytest.approx((0.4 * 0.1 * 0.3) ** (1 / 3))
    low, high = row["intervals_95"]["g_mean"]
    assert 0 < low < row["values"]["g_mean"] < high
    assert row["groups"]["kind"]["all"]["value"] == row["values"]["g_mean"]


def test_perplexity_is_the_exponential_of_the_mean_loss():
    entries = [
        entry("a", number, {"loss_nats": loss}, "perplexity") for number, loss in enumerate([1.0, 3.0, 5.0])
    ]
    row = row_of(entries, PerplexityTask)
    assert row["values"]["perplexity"] == pytest.approx(math.exp(3))
    low, high = row["intervals_95"]["loss_nats"]
    assert row["intervals_95"]["perplexity"] == pytest.approx((math.exp(low), math.exp(high)))


def test_refused_items_are_counted_and_in_no_mean():
    refused = entry("a", 9, {}, cost=None, error="too long", groups={"kind": "long"})
    row = row_of([entry("a", 1, {"rouge_l": 0.5}, groups={"kind": "short"}), refused])
    assert (row["num_items"], row["num_refused"], row["values"]) == (2, 1, {"rouge_l": 0.5})
    assert list(row["groups"]["kind"]) == ["short"]
    nothing = row_of([refused])
    assert (nothing["values"], nothing["cost"], nothing["groups"]) == ({}, {}, {"kind": {}})


def test_groups_with_too_many_values_are_left_out():
    entries = [
        entry("a", number, {"rouge_l": number / 17}, groups={"few": number % 16, "many": number})
        for number in range(17)
    ]
    groups = row_of(entries)["groups"]
    assert list(groups) == ["few"]
    assert len(groups["few"]) == 16
    assert groups["few"]["0"]["num_items"] == 2
    assert groups["few"]["0"]["value"] == pytest.approx(fmean([0, 16 / 17]))


def test_costs_are_means_of_positions_and_medians_of_times():
    costs = [
        {"decoder_positions": p, "read_seconds": s, "peak_extra_bytes": None}
        for p, s in ((10, 1), (20, 2), (60, 99))
    ]
    entries = [entry("a", number, {"rouge_l": 0.5}, cost=cost) for number, cost in enumerate(costs)]
    assert row_of(entries)["cost"] == {"decoder_positions": 30, "read_seconds": 2}


def test_each_pair_of_systems_is_tested_on_the_items_of_both_and_corrected_within_the_task():
    scores = {
        "a": [0.9, 0.8, 0.9, 0.7, 0.8, 0.9],
        "b": [0.1, 0.2, 0.3, 0.2, 0.1, 0.2],
        "c": [0.1, 0.2, 0.3, 0.2, 0.1, None],
    }
    entries = [
        entry(
            system,
            number,
            {} if value is None else {"rouge_l": value},
            error="no" if value is None else None,
            context_sha256=str(number // 2),
        )
        for system, values in scores.items()
        for number, value in enumerate(values)
    ]
    _, tests = summarize([TASKS["fairytaleqa"]()], ["a", "b", "c"], entries)
    tests = [asdict(test) for test in tests]
    assert [(test["system_a"], test["system_b"], test["num_pairs"]) for test in tests] == [
        ("a", "b", 6),
        ("a", "c", 5),
        ("b", "c", 5),
    ]
    expected = paired_test(scores["a"], scores["b"], clusters=list("001122"))
    assert (tests[0]["difference"], tests[0]["p_value"]) == (expected.difference, expected.p_value)
    assert [test["p_holm"] for test in tests] == holm([test["p_value"] for test in tests])
    assert (tests[0]["p_value"], tests[0]["p_holm"]) == (0.25, 0.75)  # 2 of the 8 signs of 3 contexts


def test_tasks_and_systems_come_in_the_order_of_the_run():
    entries = [
        entry("b", 1, {"rouge_l": 1.0}),
        entry("a", 1, {"rouge_l": 1.0}),
        entry("a", 1, {"g_mean": 1.0}, "qmsum"),
    ]
    rows, _ = summarize([TASKS["qmsum"](), TASKS["fairytaleqa"]()], ["a", "b"], entries)
    assert [(row.task, row.system) for row in rows] == [
        ("qmsum", "a"),
        ("fairytaleqa", "a"),
        ("fairytaleqa", "b"),
    ]
    assert rows[0].metric == "g_mean"


def test_a_perplexity_beyond_a_double_is_infinite_and_not_an_error():
    assert perplexity(710.0) == float("inf")
