"""Two processes on the CPU: the same gradient, the same weights."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from small_parts import weights

from e2llm.training.run import train

ROOT = Path(__file__).parents[2]
KEYS = ("loss", "grad_norm", "reasoning_loss")


def logged(folder):
    """Losses and gradient norms: weights after Adam would not show a gradient of half the size."""
    with (folder / "curves.csv").open() as stream:
        return [
            float(row[key])
            for row in csv.DictReader(stream)
            for key in ("loss", "grad_norm", "reasoning_loss")
        ]


@pytest.mark.slow
def test_two_processes_of_two_samples_train_as_one_of_four(recipe_of, tmp_path):
    steps = {
        "steps": 2,
        "evaluate_every_steps": 2,
        "save_every_steps": 2,
        "num_threads": 1,
        "max_grad_norm": 1e9,
    }
    one = recipe_of(output="one", train={**steps, "batch_size": 4, "learning_rate": 1e-4})
    alone = train(one)
    two = recipe_of(output="two", train={**steps, "batch_size": 2, "learning_rate": 1e-4})
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(two.model_dump(exclude_none=True)))
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
            "-m", "e2llm", "train", str(tmp_path / "two.yaml"),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("step 2/2  loss") == 1
    assert done.stdout.count("final: 2 steps") == 1
    assert logged(one.folder) == pytest.approx(logged(two.folder), rel=1e-3)
    ours, theirs = weights(alone.folder), weights(two.folder / "final")
    assert set(ours) == set(theirs)
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=0, atol=3e-6, msg=name)
