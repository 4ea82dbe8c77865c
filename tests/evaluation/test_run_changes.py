import json

import pytest
from run_folders import PROVENANCE, prediction, write_run

from e2llm.errors import E2LLMError
from e2llm.evaluation.report.run_changes import compare_runs, format_changes


@pytest.fixture
def compare(tmp_path):
    """Writes two runs and compares them."""

    def run(predictions_a, predictions_b, **changes_b):
        folder_a = write_run(tmp_path / "a", predictions_a)
        return compare_runs(folder_a, write_run(tmp_path / "b", predictions_b, **changes_b))

    return run


def items(*scores, system="bm25", **changes):
    return [
        prediction("qmsum", system, f"item-{number}", score, **changes)
        for number, score in enumerate(scores, start=1)
    ]


def test_items_are_better_worse_or_the_same(compare):
    comparison = compare(items(0.25, 0.75, 0.5), items(0.5, 0.25, 0.5))
    assert [item.status for item in comparison.items] == ["better", "worse", "same"]
    assert [item.gain for item in comparison.items] == [0.25, -0.5, 0.0]
    assert comparison.systems[0].counts == {"better": 1, "worse": 1, "same": 1}


def test_of_losses_less_is_better(compare):
    before = [prediction("perplexity", "bm25", "item-1", 2.0, scores={"loss_nats": 2.0})]
    after = [prediction("perplexity", "bm25", "item-1", 1.0, scores={"loss_nats": 1.0})]
    comparison = compare(before, after)
    assert comparison.items[0].status == "better"
    assert comparison.items[0].gain == 1.0
    assert comparison.systems[0].difference == -1.0
    assert "perplexity  bm25    loss_nats (lower is better)       1" in format_changes(comparison)


def test_the_difference_is_of_pairs_and_its_interval_has_its_sign(compare):
    comparison = compare(items(0.25, 0.25, 0.25, 0.9), items(0.5, 0.5, 0.5))
    change = comparison.systems[0]
    assert (change.num_pairs, change.mean_a, change.mean_b, change.difference) == (3, 0.25, 0.5, 0.25)
    assert change.interval_95 == (0.25, 0.25)
    assert change.counts == {"better": 3, "only in A": 1}


@pytest.mark.parametrize(("num_contexts", "is_trusted"), [(9, False), (10, True)])
def test_an_interval_over_few_contexts_is_marked(compare, num_contexts, is_trusted):
    def run(score):
        return [
            prediction("qmsum", "bm25", f"item-{place}", score, context_sha256=f"{place % num_contexts:064}")
            for place in range(12)
        ]

    comparison = compare(run(0.25), run(0.5))
    assert comparison.systems[0].is_interval_trusted is is_trusted
    assert ("not to be trusted: under 10 contexts" in format_changes(comparison)) is not is_trusted


def test_one_pair_has_a_difference_and_no_test(compare):
    change = compare(items(0.25), items(0.5)).systems[0]
    assert change.difference == 0.25
    assert change.interval_95 is None
    assert change.p_value is None


def test_refusals_are_told_apart_and_are_in_no_mean(compare):
    comparison = compare(items(0.5, None, None, 0.25), items(None, 0.75, None, 0.25))
    assert [item.status for item in comparison.items] == [
        "refused in B",
        "refused in A",
        "refused in both",
        "same",
    ]
    assert comparison.systems[0].num_pairs == 1
    text = format_changes(comparison)
    assert "1 refused in B, 1 refused in A, 1 refused in both" in text


@pytest.mark.parametrize(
    "changes", [{"prompt": "Why?"}, {"context_sha256": "ef" * 32}, {"references": ["x"]}]
)
def test_another_prompt_context_or_reference_is_another_question(compare, changes):
    comparison = compare(items(0.5), items(0.75, **changes))
    assert [item.status for item in comparison.items] == ["only in A", "only in B"]
    assert comparison.systems[0].difference is None


def test_systems_of_one_run_alone_are_counted_as_such(compare):
    comparison = compare(items(0.5), items(0.5, system="full"))
    assert {change.system: change.counts for change in comparison.systems} == {
        "bm25": {"only in A": 1},
        "full": {"only in B": 1},
    }


def test_the_items_that_changed_most_come_first_whatever_the_scale_of_their_task(compare):
    def run(small, large, loss):
        scores = {"loss_nats": loss}
        return [*items(small, large), prediction("perplexity", "bm25", "x", loss, scores=scores)]

    comparison = compare(run(0.5, 0.5, 9.0), run(0.4, 0.9, 3.0))
    assert [item.id for item in comparison.most_changed(2)] == ["item-2", "x"]
    text = format_changes(comparison, num_items=1)
    assert "better: qmsum, bm25, item-2: 0.500 -> 0.900\n    A: bm25 on item-2\n    B: bm25 on item-2" in text


def test_settings_that_differ_are_listed(compare):
    other = {**PROVENANCE, "budget": None, "versions": {"e2llm": "0.4.0", "torch": "2.14.0"}}
    comparison = compare(items(0.5), items(0.5), provenance=other)
    assert comparison.settings == {"versions.torch": ("2.13.0", "2.14.0"), "budget": ("2048", "null")}
    assert "  budget: 2048 -> null" in format_changes(comparison)


def test_a_task_with_another_metric_is_compared_by_the_first_ones(compare):
    def run(first, second):
        return [prediction("qmsum", "bm25", "item-1", 0.5, scores={first: 0.5, second: 0.25})]

    comparison = compare(run("f1", "rouge_l"), run("rouge_l", "f1"))
    assert comparison.systems[0].metric == "f1"
    assert comparison.items[0].gain == -0.25


def test_what_is_no_run_is_named(tmp_path):
    folder = write_run(tmp_path / "a", items(0.5))
    (tmp_path / "empty").mkdir()
    with pytest.raises(E2LLMError, match=r"empty has no predictions\.jsonl; name a folder"):
        compare_runs(folder, tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match=r"no such folder: .*missing"):
        compare_runs(folder, tmp_path / "missing")


def test_the_text_cannot_move_the_cursor(compare):
    hostile = "\x1b[2J\r\nsecond line\u202e\ud800"
    text = format_changes(compare(items(0.5), items(0.75, prediction=hostile)))
    assert "B: \\x1b[2J second line\\u202e\\ud800" in text
    assert not {"\x1b", "\u202e", "\r"} & set(text)


def test_the_comparison_is_plain_json(compare):
    content = json.loads(json.dumps(compare(items(0.25, None), items(0.5, 0.5)).as_json()))
    assert content["systems"][0]["counts"] == {"better": 1, "refused in A": 1}
    assert content["items"][0]["text_b"] == "bm25 on item-1"


def test_a_run_is_equal_to_itself(tmp_path):
    folder = write_run(tmp_path / "a", items(0.5, None))
    comparison = compare_runs(folder, folder)
    assert comparison.settings == {}
    assert comparison.most_changed(10) == []
    assert "All settings are equal." in format_changes(comparison)
