import csv
import sys
from types import SimpleNamespace

import pytest

from e2llm.training.console import COLUMNS, ConsoleCallback, log_line, write_curves

LOGS = {
    "loss": 8.5994,
    "understanding_loss": 5.2554,
    "reasoning_loss": 3.344,
    "learning_rate": 0.0015,
    "grad_norm": 1.234,
    "tokens_per_second": 12345.6,
    "epoch": 0.1,
}
WEIGHTS = {"understanding": 1.0, "reasoning": 1.0}
STATE = SimpleNamespace(is_world_process_zero=True, global_step=20, max_steps=200)


def test_a_log_entry_becomes_one_tidy_line():
    assert log_line(LOGS, 20, 200, WEIGHTS) == (
        "step  20/200  loss 8.599 = understanding 5.255 + reasoning 3.344  lr 1.50e-03  grad norm 1.23  "
        "12,346 tokens/s"
    )


def test_the_line_names_every_part_of_the_loss_with_its_weight():
    logs = {"loss": 4.05, "understanding_loss": 2.0, "reasoning_loss": 3.0, "distillation_loss": 0.1}
    weights = {"understanding": 0.5, "reasoning": 1.0, "distillation": 0.5}
    line = "step 1/2  loss 4.050 = 0.5 x understanding 2.000 + reasoning 3.000 + 0.5 x distillation 0.100"
    assert log_line(logs, 1, 2, weights) == line
    assert log_line({"loss": 900.0}, 1, 2, {}) == "step 1/2  loss 900.000"


def test_an_evaluation_becomes_a_line_of_its_own():
    line = log_line({"eval_reasoning_loss": 2.5, "eval_understanding_loss": 3.0}, 20, 200, WEIGHTS)
    assert line == "step  20/200  held out: understanding 3.000  reasoning 2.500"


def test_the_summary_of_transformers_is_not_shown():
    assert log_line({"train_runtime": 1.0, "train_loss": 2.0}, 200, 200, WEIGHTS) is None


def test_in_a_pipe_there_are_lines_on_stderr_and_no_bar(capsys):
    console = ConsoleCallback(WEIGHTS)
    console.on_train_begin(None, STATE, None)
    console.on_step_end(None, STATE, None)
    console.on_log(None, STATE, None, logs=LOGS)
    console.close()
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert shown.err.startswith("step  20/200")


def test_on_a_terminal_there_is_a_bar_until_it_is_closed(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    console = ConsoleCallback(WEIGHTS)
    console.on_train_begin(None, STATE, None)
    assert console.progress.tasks[0].completed == 20
    console.on_log(None, STATE, None, logs=LOGS)
    console.close()
    console.close()
    assert console.progress is None
    assert "8.599" in capsys.readouterr().err


def test_only_the_first_process_speaks(capsys):
    state = SimpleNamespace(is_world_process_zero=False, global_step=20, max_steps=200)
    console = ConsoleCallback(WEIGHTS)
    console.on_train_begin(None, state, None)
    console.on_log(None, state, None, logs=LOGS)
    assert capsys.readouterr().err == ""


CURVE_LOG = [
    {"step": 10, "loss": 5.0, "reasoning_loss": 4.0, "learning_rate": 1e-3, "epoch": 0.1},
    {"step": 10, "eval_reasoning_loss": 4.5},
    {"step": 20, "loss": 3.0, "reasoning_loss": 2.5},
    {"step": 20, "train_runtime": 3.0},
]


def test_training_and_held_out_losses_of_a_step_share_a_row(tmp_path):
    write_curves(CURVE_LOG, tmp_path, "a run")
    with (tmp_path / "curves.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["step"], row["reasoning_loss"], row["eval_reasoning_loss"]) for row in rows] == [
        ("10", "4.0", "4.5"),
        ("20", "2.5", ""),
    ]


def test_the_curves_are_drawn(tmp_path, pictures):
    pytest.importorskip("matplotlib")
    write_curves(CURVE_LOG, tmp_path, "a run")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_numbers_are_written_all_the_same(tmp_path):
    write_curves(CURVE_LOG, tmp_path, "a run")
    assert [file.name for file in tmp_path.iterdir()] == ["curves.csv"]


def test_an_empty_log_makes_a_table_without_rows(tmp_path):
    write_curves([], tmp_path, "a run")
    assert (tmp_path / "curves.csv").read_text().splitlines() == [",".join(COLUMNS)]
