"""Two processes on the CPU: the same gradient, the same weights, whatever they share out."""

import csv
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from shutil import which

import pytest
import torch
import yaml
from small_parts import save_encoder, weights

from e2llm.training.run import train

ROOT = Path(__file__).parents[2]
needs_deepspeed = pytest.mark.skipif(
    find_spec("deepspeed") is None or which("g++") is None or which("ninja") is None,
    reason="DeepSpeed on a CPU needs its package, g++ and ninja",
)


def logged(folder):
    """Losses and gradient norms: weights after Adam would not show a gradient of half the size."""
    with (folder / "curves.csv").open() as stream:
        return [
            float(row[key])
            for row in csv.DictReader(stream)
            for key in ("loss", "grad_norm", "reasoning_loss")
        ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "parallel",
    ["ddp", pytest.param("zero2", marks=needs_deepspeed), pytest.param("zero3", marks=needs_deepspeed)],
)
def test_two_processes_train_as_one_of_the_same_batch(recipe_of, tmp_path, parallel):
    steady = save_encoder(tmp_path / "steady", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    steps = {"steps": 2, "evaluate_every_steps": 2, "save_every_steps": 2, "learning_rate": 1e-4}
    texts = {"path": "texts.jsonl", "objectives": ["understanding"]}
    parts = {
        "encoder": {"source": steady, "mode": "lora", "batch_tokens": 100},
        "objectives": {"understanding": {"fraction": 0.3}, "mixed_fraction": 0.5},
        "data": {"train": [{"path": "questions.jsonl"}, texts]},
    }
    settings = {**steps, "num_threads": 1}
    one = recipe_of(output="one", train={**settings, "batch_size": 4}, **parts)
    alone = train(one)
    share = {"batch_size": 1, "gradient_accumulation": 2, "parallel": parallel}
    two = recipe_of(output="two", train={**settings, **share}, **parts)
    assert alone.first_losses.keys() == {"understanding_loss", "reasoning_loss"}
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(two.model_dump(exclude_none=True)))
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
            "-m", "e2llm", "train", str(tmp_path / "two.yaml"),
        ],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT / "src"),
            "OMP_NUM_THREADS": "1",
            # DeepSpeed compiles here: a build killed in a shared folder leaves a lock that blocks all others.
            "TORCH_EXTENSIONS_DIR": str(tmp_path / "compiled"),
        },
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("step 2/2  loss") == 1
    assert done.stdout.count("final: 2 steps") == 1
    assert logged(one.folder) == pytest.approx(logged(two.folder), rel=1e-3)
    ours, theirs = weights(alone.folder), weights(two.folder / "final")
    assert set(ours) == set(theirs)
    for name, value in ours.items():
        # Attention does not feel a bias of its keys: the gradient is rounding, which Adam blows up.
        tolerance = 1e-4 if name == "adapter.key_projection.bias" else 3e-6
        torch.testing.assert_close(value, theirs[name], rtol=0, atol=tolerance, msg=name)
