"""Real processes that are killed at chosen moments, and go on."""

import signal

import pytest
import torch
import yaml
from small_parts import make_recipe, weights

from e2llm.training.run import train
from killing import run_struck

pytestmark = pytest.mark.slow

TRAINER = "e2llm.training.trainer"
MOMENTS = {
    "in a step": (TRAINER, "E2LLMTrainer.compute_loss", 5),
    "while the model is saved": ("e2llm.modeling.checkpoints.save", "write_weights", 2),
    "between model and optimizer": (TRAINER, "E2LLMTrainer._save_optimizer_and_scheduler", 2),
    "before the state is written": (TRAINER, "E2LLMTrainer._save_rng_state", 2),
    "before the checkpoint takes its place": (TRAINER, "publish", 2),
    "while old checkpoints are removed": (TRAINER, "rotate_checkpoints", 3),
}


SECTIONS = {
    "train": {
        "steps": 6, "batch_size": 2, "evaluate_every_steps": 2, "save_every_steps": 2,
        "keep_checkpoints": 1, "num_threads": 1, "packing": True,
    },
    "objectives": {"reasoning": {"turns": 2}},
}  # fmt: skip


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, encoder, decoder):
    """The result of a run that nothing happened to, and its weights."""
    threads = torch.get_num_threads()
    result = train(make_recipe(tmp_path_factory.mktemp("whole"), encoder, decoder, **SECTIONS))
    torch.set_num_threads(threads)
    return result, weights(result.folder)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_killed_at_any_moment_ends_with_the_weights_of_an_undisturbed_one(
    recipe_of, undisturbed, one_thread, tmp_path, moment
):
    module, name, count = MOMENTS[moment]
    recipe = recipe_of(output="killed", **SECTIONS)
    file = tmp_path / "killed.yaml"
    file.write_text(yaml.safe_dump(recipe.model_dump(exclude_none=True)))
    done = run_struck(signal.SIGKILL, (module, name, count), "train", file, "--resume")
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (recipe.folder / "result.json").exists()
    result, theirs = undisturbed
    resumed = train(recipe, resume=True)
    ours = weights(resumed.folder)
    assert set(ours) == set(theirs)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert resumed.eval_losses == result.eval_losses
    assert not (recipe.folder / ".saving").exists()
