"""An interval over few contexts is marked: five questions on one document have an interval without width."""

from dataclasses import asdict
from types import SimpleNamespace

import pytest

from e2llm.evaluation.report.tables import format_scores
from e2llm.evaluation.run.predictions import Prediction
from e2llm.evaluation.run.scores import summarize

WARNING = "not to be trusted: under 10 contexts"


@pytest.mark.parametrize(("num_contexts", "is_trusted"), [(1, False), (9, False), (10, True)])
def test_intervals_over_fewer_than_ten_contexts_are_not_to_be_trusted(num_contexts, is_trusted):
    task = SimpleNamespace(name="book", metric="f1")
    entries = [
        Prediction(
            *("book", system, str(place), "Who?"),
            context_sha256=str(place % num_contexts),
            references=["x"],
            groups={"depth": 1},
            scores={"f1": place / 20 + shift},
        )
        for system, shift in (("a", 0.0), ("b", 0.25))
        for place in range(10)
    ]
    rows, tests = summarize([task], ["a", "b"], entries)
    assert rows[0].are_intervals_trusted is is_trusted
    assert rows[0].groups["depth"]["1"].is_interval_trusted is is_trusted
    assert tests[0].is_interval_trusted is is_trusted
    table = format_scores({"rows": [asdict(row) for row in rows], "provenance": {}})
    assert (WARNING in table) is not is_trusted
