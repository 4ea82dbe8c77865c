import json
from pathlib import Path

import pytest
import torch
import yaml
from small_parts import recipe_dict
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from e2llm.cli.main import entry_point
from e2llm.errors import E2LLMError
from e2llm.training import dry_run as dry
from e2llm.training.dry_run import tiny_config
from e2llm.training.recipe import load_recipe
from tiny_models import DECODERS, ENCODERS

RECIPES = sorted((Path(__file__).parents[2] / "recipes").rglob("*.yaml"))


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_every_shipped_recipe_passes_without_data_or_weights(file, tmp_path):
    recipes = load_recipe(file, data=tmp_path / "nowhere")
    if any(recipe.decoder.quantization == "nf4" for recipe in recipes):
        pytest.importorskip("bitsandbytes")
    checks = dry.dry_run(recipes)
    assert len(checks) == len(recipes)
    assert all(check.tensors_trained > 0 and check.losses for check in checks)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def recipe_file(tmp_path, encoder, decoder):
    """A recipe of two stages."""
    stages = [{"stage": "one"}, {"stage": "two"}]
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe_dict(tmp_path, encoder, decoder, stages=stages)))
    return file


def test_the_command_shows_the_step_and_the_memory(recipe_file, capsys):
    assert entry_point(["train", str(recipe_file), "--dry-run", "--stage", "one"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("tiny one: a tiny step passed in ")
    assert "GiB on each device" in shown
    assert not (recipe_file.parent / "run").exists()


def test_json_has_the_parameters_of_the_real_parts(recipe_file, capsys, decoder):
    assert entry_point(["train", str(recipe_file), "--dry-run", "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["name"], second["name"]) == ("tiny one", "tiny two")
    rows = {row["part"]: row for row in first["memory"]}
    real = AutoModelForCausalLM.from_pretrained(decoder)
    count = sum(parameter.numel() for parameter in real.parameters())
    assert rows["decoder"]["parameters"] == rows["decoder"]["trained"] == count
    assert rows["decoder"]["training_bytes"] == 12 * count
    assert rows["encoder"]["trained"] == 0


def test_parts_that_are_not_on_this_machine_have_no_memory_and_a_step_all_the_same(recipe_of):
    (check,) = dry.dry_run([recipe_of(decoder={"source": "no/such-decoder"})])
    assert check.memory == []
    assert "memory unknown" in check.report()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dry-run", "--resume"], "--resume does not work with --dry-run"),
        (["--dry-run", "--overfit", "4"], "--overfit does not work with --dry-run"),
    ],
)
def test_a_mistake_is_one_line(recipe_file, capsys, arguments, message):
    assert entry_point(["train", str(recipe_file), *arguments]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("e2llm: error:")]
    assert len(lines) == 1
    assert message in lines[0]


def test_a_gradient_that_does_not_arrive_is_an_error(recipe_of, monkeypatch):
    from e2llm.modeling.adapters import AttentionPoolingAdapter

    whole = AttentionPoolingAdapter.forward
    monkeypatch.setattr(AttentionPoolingAdapter, "forward", lambda *inputs: whole(*inputs).detach())
    with pytest.raises(E2LLMError, match=r"no gradient reaches adapter\.queries, which should train"):
        dry.dry_run([recipe_of()])


def test_a_saved_model_that_is_another_is_an_error(recipe_of, monkeypatch):
    whole = dry.finish

    def finish(recipe, trainer):
        result = whole(recipe, trainer)
        with torch.no_grad():
            trainer.model.get_input_embeddings().weight.add_(1)
        return result

    monkeypatch.setattr(dry, "finish", finish)
    with pytest.raises(E2LLMError, match="logits differ from the trained one's by"):
        dry.dry_run([recipe_of()])


def test_a_part_that_trains_unasked_is_an_error():
    model = torch.nn.Linear(2, 2).requires_grad_(False)
    before = {name: tensor + 1 for name, tensor in model.named_parameters()}
    with pytest.raises(E2LLMError, match="weight changed, although it should not train"):
        dry.check_gradients("dry run", model, before, set())


@pytest.mark.parametrize("kind", [*ENCODERS, *DECODERS])
def test_every_supported_type_has_a_tiny_form(kind):
    config = tiny_config(AutoConfig.for_model(kind), 1024)
    loader = AutoModel if kind in ENCODERS else AutoModelForCausalLM
    model = loader.from_config(config)
    assert sum(parameter.numel() for parameter in model.parameters()) < 500_000
    assert model(input_ids=torch.ones(1, 8, dtype=torch.long))[0].shape[:2] == (1, 8)
