from e2llm.evaluation.report.tables import format_scores


def row(system, **changes):
    return {
        "task": "vt",
        "system": system,
        "metric": "recall",
        "num_items": 20,
        "num_refused": 0,
        "values": {"recall": 0.25},
        "intervals_95": {"recall": (0.125, 0.375)},
        "cost": {"decoder_positions": 1024.0, "first_token_seconds": 0.0625},
        "groups": {},
        **changes,
    }


def test_a_line_has_score_interval_positions_and_time():
    text = format_scores({"rows": [row("bm25")], "provenance": {}})
    assert text.splitlines()[1].split() == [
        "vt",
        "bm25",
        "20",
        "recall",
        "0.250",
        "0.125",
        "to",
        "0.375",
        "1,024",
        "0.062",
    ]


def test_what_is_not_known_is_a_dash_and_refusals_are_counted():
    refused = row("full", num_refused=20, values={}, intervals_95={}, cost={})
    lines = format_scores({"rows": [refused], "provenance": {"notes": ["read\nthis"]}}).splitlines()
    assert lines[1].split() == ["vt", "full", "20", "(20", "refused)", "recall", "–", "–", "–", "–"]
    assert lines[2] == "Note: read this"


def test_columns_stand_below_each_other():
    lines = format_scores({"rows": [row("bm25"), row("closed-book")], "provenance": {}}).splitlines()
    assert len({line.index("recall") for line in lines[1:]}) == 1
    assert len({len(line) for line in lines}) == 1
