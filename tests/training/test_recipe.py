import pytest
import yaml
from small_parts import recipe_dict

from e2llm.errors import E2LLMError
from e2llm.training.recipe import load_recipe


@pytest.fixture
def write(tmp_path):
    """Writes a recipe file; keyword arguments change its sections."""

    def write_recipe(**sections):
        file = tmp_path / "recipe.yaml"
        file.write_text(yaml.safe_dump(recipe_dict(tmp_path, "an-encoder", "a-decoder", **sections)))
        return file

    return write_recipe


STAGES = [
    {"stage": "first", "train": {"steps": 3}},
    {"stage": "second", "train": {"learning_rate": 0.5}},
]


def test_a_folder_is_no_recipe_and_may_hold_one(tmp_path):
    with pytest.raises(E2LLMError, match=r"is a folder; give a recipe such as .*recipe\.yaml"):
        load_recipe(tmp_path)


def test_an_unknown_key_is_named(write):
    with pytest.raises(E2LLMError, match=r"train\.lerning_rate: unknown key"):
        load_recipe(write(train={"lerning_rate": 1e-4}))


def test_a_key_that_stands_twice_is_an_error_and_not_lost(write):
    file = write()
    file.write_text(file.read_text() + "train: {steps: 9}\n")
    with pytest.raises(E2LLMError, match=r"the key train is repeated .* line \d+"):
        load_recipe(file)


@pytest.mark.parametrize("key", ["train.steps", "train.learning_rate", "seed"])
def test_true_is_no_number(write, key):
    with pytest.raises(E2LLMError, match=rf"{key}: this key does not take true or false, got True"):
        load_recipe(write(), [f"{key}=true"])
    assert load_recipe(write(), ["train.packing=true"])[0].train.packing is True


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_torch_and_numpy_do_not_take_is_found_with_the_recipe(write, seed):
    with pytest.raises(E2LLMError, match=r"seed: Input should be (greater|less) than"):
        load_recipe(write(), [f"seed={seed}"])


def test_defaults_give_way_to_the_file_and_the_file_to_set(write):
    file = write(train={"steps": 7})
    assert load_recipe(file)[0].train.weight_decay == 0.01
    assert load_recipe(file)[0].train.steps == 7
    assert load_recipe(file, ["train.steps=9"])[0].train.steps == 9


def test_a_number_that_yaml_reads_as_text_is_a_number(tmp_path, write):
    file = write()
    file.write_text(file.read_text().replace("learning_rate: 0.001", "learning_rate: 1e-4"))
    assert load_recipe(file)[0].train.learning_rate == 1e-4
    assert load_recipe(file, ["train.learning_rate=2e-5"])[0].train.learning_rate == 2e-5


def test_a_stage_changes_some_keys_and_starts_from_the_one_before(write, tmp_path):
    first, second = load_recipe(write(stages=STAGES))
    assert (first.train.steps, first.train.learning_rate) == (3, 1e-3)
    assert (second.train.steps, second.train.learning_rate) == (4, 0.5)
    assert first.init_from is None
    assert second.init_from == str(tmp_path / "run" / "first" / "final")
    assert second.folder == tmp_path / "run" / "second"


def test_the_start_of_the_whole_recipe_is_that_of_its_first_stage(write, tmp_path):
    file = write(stages=STAGES, init_from="some/start")
    assert [recipe.init_from for recipe in load_recipe(file)] == [
        "some/start", str(tmp_path / "run" / "first" / "final")
    ]  # fmt: skip
    second = load_recipe(file, ["second:init_from=other/start"])[1]
    assert second.init_from == "other/start"


def test_set_with_a_stage_changes_that_stage_alone(write):
    first, second = load_recipe(write(stages=STAGES), ["second:train.steps=5", "seed=8"])
    assert (first.train.steps, second.train.steps) == (3, 5)
    assert (first.seed, second.seed) == (8, 8)


def test_set_reaches_into_lists_and_leaves_the_rest(write):
    (recipe,) = load_recipe(write(), ["data.train.1.weight=4"])
    assert [file.weight for file in recipe.data.train] == [1, 4]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.steps", "takes key=value"),
        ("third:train.steps=5", "the recipe has no stage 'third'; its stages: first, second"),
        ("train.steps.more=5", "which is not a mapping"),
        ("data.train.7.weight=5", "not an index of a list of 2"),
        ("train.steps={", "not valid YAML"),
        ("train..steps=5", "takes key=value"),
    ],
)
def test_a_bad_set_says_what_is_wrong(write, override, message):
    with pytest.raises(E2LLMError, match=message):
        load_recipe(write(stages=STAGES), [override])


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("train", {"steps": 0}, r"train\.steps: .*greater than or equal to 1, got 0"),
        ("train", {"learning_rate": float("inf")}, r"train\.learning_rate: .*finite"),
        ("train", {"precision": "fp8"}, r"train\.precision: .*'fp32'.*got 'fp8'"),
        ("train", {"save_every_steps": 3}, "must be a multiple of evaluate_every_steps"),
        ("objectives", {"soft_tokens": [4]}, r"soft_tokens has 4, but adapter\.max_soft_tokens is 2"),
        ("objectives", {"soft_tokens": [0]}, r"objectives\.soft_tokens\.0"),
        ("objectives", {"understanding": {"window_chunks": []}}, r"window_chunks: .*at least 1 item"),
        ("decoder", {"source": None}, r"decoder\.source is missing"),
        ("decoder", {"mode": "none"}, r"decoder\.mode"),
        ("chunking", {"kind": "verse"}, "chunking: kind must be one of prose, code, tokens, got 'verse'"),
        ("data", {"train": []}, r"data\.train: .*at least 1 item"),
    ],
)
def test_a_bad_value_is_refused_with_its_key(write, section, values, message):
    with pytest.raises(E2LLMError, match=message):
        load_recipe(write(**{section: values}))


def test_a_run_in_which_nothing_trains_is_refused(write):
    with pytest.raises(E2LLMError, match="all frozen"):
        load_recipe(write(decoder={"mode": "frozen"}, adapter={"mode": "frozen"}))


def test_stages_need_names_of_their_own(write):
    with pytest.raises(E2LLMError, match="needs its own name"):
        load_recipe(write(stages=[{"stage": "same"}, {"stage": "same"}]))


def test_data_is_looked_up_beside_the_recipe_or_in_the_given_folder(write, tmp_path):
    file = write(data={"train": [{"path": "a.jsonl"}, {"path": "/absolute/b.jsonl"}]})
    assert [item.path for item in load_recipe(file)[0].data.train] == [
        str(tmp_path / "a.jsonl"),
        "/absolute/b.jsonl",
    ]
    (recipe,) = load_recipe(file, data=tmp_path / "elsewhere")
    assert recipe.data.train[0].path == str(tmp_path / "elsewhere" / "a.jsonl")


def test_setting_one_key_of_lora_leaves_the_others_at_the_defaults_of_that_part(write):
    (recipe,) = load_recipe(write(), ["decoder.lora.rank=8", "encoder.lora.rank=16"])
    assert (recipe.encoder.lora.rank, recipe.encoder.lora.alpha) == (16, 32)
    assert (recipe.decoder.lora.rank, recipe.decoder.lora.alpha) == (8, 16)


@pytest.mark.parametrize("content", ["- a list", "{", "just text"])
def test_a_file_that_is_no_mapping_is_refused_by_name(tmp_path, content):
    file = tmp_path / "bad.yaml"
    file.write_text(content)
    with pytest.raises(E2LLMError, match=r"bad\.yaml"):
        load_recipe(file)


def test_a_missing_recipe_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.yaml"):
        load_recipe(tmp_path / "none.yaml")
