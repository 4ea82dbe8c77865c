import pytest
import torch

from e2llm.errors import E2LLMError
from e2llm.training.averaging import average_weights
from e2llm.training.build import load_start
from tiny_models import tiny_model, tiny_processor


def different_model():
    torch.manual_seed(5)
    model = tiny_model(max_soft_tokens=2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.rand_like(parameter))
    return model


def test_every_weight_is_the_mean_of_both():
    model, other = tiny_model(max_soft_tokens=2), different_model()
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    average_weights(model, other)
    others = dict(other.named_parameters())
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight, (before[name] + others[name]) / 2)
        assert not torch.equal(weight, before[name])


def test_models_of_other_shapes_are_refused_and_nothing_changes():
    model = tiny_model(max_soft_tokens=2)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    with pytest.raises(E2LLMError, match="only models of one shape can be averaged: adapter"):
        average_weights(model, tiny_model(max_soft_tokens=3))
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())


def test_a_run_starts_from_the_mean_of_two_checkpoints(recipe_of, tmp_path):
    models = {"one": tiny_model(max_soft_tokens=2), "two": different_model()}
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
        tiny_processor().save_pretrained(tmp_path / name)
    recipe = recipe_of(init_from=str(tmp_path / "one"), average_with=str(tmp_path / "two"))
    weights = dict(load_start(recipe)[0].named_parameters())
    for name, weight in models["one"].named_parameters():
        expected = (weight + dict(models["two"].named_parameters())[name]) / 2
        torch.testing.assert_close(weights[name], expected)


def test_a_stage_that_was_not_trained_is_named(recipe_of, tmp_path):
    tiny_model(max_soft_tokens=2).save_pretrained(tmp_path / "one")
    recipe = recipe_of(init_from=str(tmp_path / "one"), average_with=str(tmp_path / "other" / "final"))
    with pytest.raises(E2LLMError, match=r"average_with: .*final does not exist yet"):
        load_start(recipe)
