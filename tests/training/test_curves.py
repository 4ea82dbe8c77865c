import csv

import pytest

from e2llm.training import curves

LOG = [
    {"step": 10, "loss": 5.0, "reasoning_loss": 4.0, "learning_rate": 1e-3, "epoch": 0.1},
    {"step": 10, "eval_reasoning_loss": 4.5},
    {"step": 20, "loss": 3.0, "reasoning_loss": 2.5},
    {"step": 20, "train_runtime": 3.0},
]


def test_training_and_held_out_losses_of_a_step_share_a_row(tmp_path):
    curves.write_curves(LOG, tmp_path, "a run")
    with (tmp_path / "curves.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["step"], row["reasoning_loss"], row["eval_reasoning_loss"]) for row in rows] == [
        ("10", "4.0", "4.5"),
        ("20", "2.5", ""),
    ]


def test_the_curves_are_drawn(tmp_path, pictures):
    pytest.importorskip("matplotlib")
    curves.write_curves(LOG, tmp_path, "a run")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_numbers_are_written_all_the_same(tmp_path):
    curves.write_curves(LOG, tmp_path, "a run")
    assert [file.name for file in tmp_path.iterdir()] == ["curves.csv"]


def test_an_empty_log_makes_a_table_without_rows(tmp_path):
    curves.write_curves([], tmp_path, "a run")
    assert (tmp_path / "curves.csv").read_text().splitlines() == [",".join(curves.COLUMNS)]
