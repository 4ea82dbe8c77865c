import pytest
import yaml
from fuzzing import HUGE, altered, bounded, damaged, refused
from hypothesis import example, given

from e2llm.training.recipe import load_recipe, parse_override

RECIPE = {
    "name": "small",
    "output": "runs/small",
    "encoder": {"model": "encoder"},
    "decoder": {"model": "decoder", "mode": "lora", "lora": {"rank": 4}},
    "data": {"train": ["a.jsonl", {"path": "b.jsonl", "weight": 2.0}], "validation": ["c.jsonl"]},
    "objectives": {"reasoning": {"turns": 2}},
    "train": {"steps": 3, "batch_size": 2, "learning_rate": 1e-3},
    "stages": [{"stage": "one"}, {"stage": "two", "train": {"steps": 4}}],
}
TEXT = yaml.safe_dump(RECIPE, sort_keys=False)


def check(file, content):
    file.write_bytes(content)
    recipes = refused(lambda: load_recipe(file), file)
    assert recipes is None or all(recipe.train.steps >= 1 for recipe in recipes)


@bounded
@given(damaged(TEXT.encode()))
def test_damaged_recipes_are_refused_by_their_file(tmp_path, content):
    check(tmp_path / "recipe.yaml", content)


@bounded
@given(altered(RECIPE))
@example({**RECIPE, "name": "\0"})
@example({**RECIPE, "stages": [{"stage": ["x"]}]})
@example({**RECIPE, "train": {"steps": 10**400}})
@example({**RECIPE, 3: 4})
def test_other_values_are_refused_or_valid(tmp_path, content):
    check(tmp_path / "recipe.yaml", yaml.dump(content).encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize(
    "text",
    [
        "[" * 20_000,
        "a: " * 20_000,
        "- " * 20_000,
        "{a: " * 5_000 + "1" + "}" * 5_000,
        f"train: {{steps: {HUGE}}}",
        f"seed: 0x{'f' * 9000}",
        "seed: !!int abc",
        "seed: !!int ''",
        "seed: !!float abc",
        "seed: !!bool perhaps",
        "seed: !!timestamp never",
        "name: 2020-99-99",
        "name: 2020-01-01 99:99:99",
        "name: !!binary 'é'",
        "name: !!python/object/apply:os.system ['true']",
        "name: !!set [a]",
        "? [a]\n: b",
        "? {a: b}\n: c",
        "train: {steps: 1, steps: 2}",
        "name: a\nname: b",
        "\ufeffname: x",
        'name: "\\ud800"',
        "name: \x07",
        "a: &a 1\nb: *c",
        "%YAML 9.9\n---\nname: x",
        "--- a\n--- b",
        "<<: 3",
        "<<: [a, b]",
        "=: 3",
        "name: !unknown x",
    ],
)
def test_hostile_yaml_is_refused_by_its_file(tmp_path, text):
    file = tmp_path / "recipe.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    assert refused(lambda: load_recipe(file), file) is None


@pytest.mark.parametrize("value", ["!!int abc", "2020-99-99", HUGE, "[" * 20_000, "!!bool x"])
def test_hostile_values_of_set_are_refused(value):
    assert refused(lambda: parse_override(f"train.steps={value}", []), "--set 'train.steps=") is None
