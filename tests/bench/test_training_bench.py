import pytest
import torch

from e2llm import Engine
from e2llm.bench import training
from e2llm.bench.training import format_training, run_way
from tiny_models import tiny_model, tiny_processor


@pytest.fixture
def settings(monkeypatch):
    monkeypatch.setattr(training, "build_engine", lambda **options: Engine(tiny_model(), tiny_processor()))
    return {
        "engine": {}, "num_threads": torch.get_num_threads(), "soft_tokens": 2, "questions": 2,
        "batch_size": 4, "steps": 2, "encoder_mode": "frozen", "decoder_mode": "lora", "checkpointing": False,
        "unchecked_tokens": 0, "text": None, "context_tokens": 200,
    }  # fmt: skip


def test_every_way_trains_the_same_samples_to_the_same_loss(settings):
    rows = [run_way({**settings, "way": way}) for way in ("plain", "e2llm")]
    losses = [row["loss"] for row in rows]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert all(row["context_tokens_per_s"] > 0 and row["peak_bytes"] > 0 for row in rows)
    assert 0 < rows[1]["encoder_padding"] < 0.5
    assert rows[0]["gemm_fraction"] > 0


def test_an_encoder_that_trains_is_measured_by_two_ways(settings):
    settings = {**settings, "encoder_mode": "lora", "unchecked_tokens": 100, "checkpointing": True}
    plain, ours = (run_way({**settings, "way": way}) for way in ("plain", "e2llm"))
    assert plain["encoder_mode"] == "lora"
    assert 0 <= ours["encoder_padding"] < 0.5


def test_the_table_shows_ratios_and_failures():
    row = {
        "context_tokens": 100, "gemm_fraction": 0.5, "encoder_padding": 0.25, "decoder_padding": 0.0,
        "peak_bytes": 2e6, "loss": 1.5,
    }  # fmt: skip
    table = format_training(
        [
            {**row, "way": "plain", "context_tokens_per_s": 50.0},
            {**row, "way": "e2llm", "context_tokens_per_s": 150.0},
            {"way": "e2llm", "context_tokens": 100, "error": "no room"},
        ]
    )
    assert "3.00" in table.splitlines()[2]
    assert "failed: no room" in table.splitlines()[3]
