import json

import pytest
import torch
from small_parts import make_recipe, save_encoder

from e2llm.cli.main import entry_point
from e2llm.errors import E2LLMError
from e2llm.modeling.model import E2LLMForConditionalGeneration
from e2llm.modeling.processor import E2LLMProcessor
from e2llm.training.realigning import match, matching_loss, realign_model, stretch, swap_encoder
from e2llm.training.run import train
from e2llm.training.trainer import E2LLMTrainer

TEXTS = ["The harbour lights went out at nine. " * 4, "Seven boats, and the key under the blue stone. " * 3]


@pytest.fixture
def other_encoder(tmp_path):
    """Another shape, so that no weight of the old one could be used."""
    torch.manual_seed(9)
    return save_encoder(tmp_path / "other", hidden_size=48, num_hidden_layers=1)


@pytest.fixture(params=["full", "lora"])
def trained(request, tmp_path, encoder, decoder):
    """A model whose decoder's weights are in the checkpoint, or deltas of a base."""
    return train(make_recipe(tmp_path, encoder, decoder, decoder={"mode": request.param})).folder


def load(folder):
    return E2LLMForConditionalGeneration.from_pretrained(folder), E2LLMProcessor.from_pretrained(folder)


def decoder_tensors(model):
    return {name: value.clone() for name, value in model.language_model.state_dict().items()}


def test_only_the_adapter_is_new_and_the_decoder_stays_bit_for_bit(trained, other_encoder, recipe_of):
    before = decoder_tensors(load(trained)[0])
    recipe = recipe_of(
        output="realigned",
        encoder={"source": other_encoder},
        decoder={"source": str(trained), "mode": "frozen"},
    )
    result = realign_model(recipe, str(trained), match_steps=3)
    model, processor = load(result.folder)
    after = decoder_tensors(model)
    assert set(before) == set(after)
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert model.config.encoder_config.hidden_size == 48
    assert processor.chunk_size_chars == 64
    saved = json.loads((recipe.folder / "realign.json").read_text())
    assert set(saved["old"]) == set(saved["matched"]) == {"understanding_loss", "reasoning_loss"}
    assert saved["fresh"] != saved["matched"]
    assert list(saved["trained"]) == ["2", "4"]


def test_matching_brings_the_soft_tokens_nearer(encoder, decoder, other_encoder):
    old = (
        E2LLMForConditionalGeneration.from_parts(encoder, decoder, adapter="attention", max_soft_tokens=2),
        E2LLMProcessor.from_parts(encoder, decoder, chunk_size_chars=64),
    )
    torch.manual_seed(1)
    new = swap_encoder(*old, other_encoder)
    losses = match(new, old, TEXTS, steps=60, batch_size=8, learning_rate=1e-2)
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("lengths", [(600, 600), (600, 300)])
def test_matching_brings_pooled_states_nearer_and_leaves_the_head(tmp_path, decoder, lengths):
    folders = [
        save_encoder(tmp_path / str(place), max_position_embeddings=n) for place, n in enumerate(lengths)
    ]
    old = (
        E2LLMForConditionalGeneration.from_parts(folders[0], decoder, adapter="pooling"),
        E2LLMProcessor.from_parts(folders[0], decoder, chunk_size_chars=64),
    )
    old[0].config.trained_on = {"4": 7}
    torch.nn.init.normal_(old[0].adapter.head.down.weight, std=0.1)
    torch.manual_seed(1)
    new = swap_encoder(*old, folders[1])
    assert new[0].config.trained_on == {"4": 7}
    losses = match(new, old, TEXTS, steps=60, batch_size=8, learning_rate=1e-2)
    assert losses[-1] < 0.5 * losses[0]
    for name, value in old[0].adapter.head.state_dict().items():
        assert torch.equal(value, new[0].adapter.head.state_dict()[name])


def test_an_encoder_too_narrow_for_the_head_is_refused(tmp_path, encoder, decoder):
    narrow = save_encoder(tmp_path / "narrow", hidden_size=8, num_hidden_layers=1)
    old = (
        E2LLMForConditionalGeneration.from_parts(encoder, decoder, adapter="pooling"),
        E2LLMProcessor.from_parts(encoder, decoder, chunk_size_chars=64),
    )
    with pytest.raises(E2LLMError, match="states of width 16, but the adapter's head needs 32"):
        swap_encoder(*old, narrow)


def test_old_states_are_stretched_along_a_chunk_of_other_groups():
    rows = torch.arange(4.0)[:, None].repeat(1, 3)
    assert stretch(rows, 4) is rows
    assert stretch(rows, 2)[:, 0].tolist() == [0.5, 2.5]
    assert stretch(rows, 8).shape == (8, 3)


def test_the_matching_loss_is_the_share_of_variance_that_is_missed():
    old = torch.randn(50, 2, 8)
    assert matching_loss(old, old) == 0
    mean = old.mean(dim=0).expand_as(old)
    torch.testing.assert_close(matching_loss(mean, old), torch.tensor(1.0))


def test_a_decoder_that_would_train_and_a_used_folder_are_refused(recipe_of, encoder, tmp_path):
    with pytest.raises(E2LLMError, match=r"decoder\.mode must be frozen, got full"):
        realign_model(recipe_of(), "smol")
    recipe = recipe_of(decoder={"mode": "frozen"})
    recipe.folder.mkdir(parents=True)
    (recipe.folder / "realign.json").touch()
    with pytest.raises(E2LLMError, match="already contains a run"):
        realign_model(recipe, "smol")


def test_an_interrupted_run_continues_after_matching(trained, other_encoder, recipe_of, monkeypatch):
    recipe = recipe_of(
        output="realigned",
        encoder={"source": other_encoder},
        decoder={"source": str(trained), "mode": "frozen"},
    )
    whole_step = E2LLMTrainer.training_step

    def broken_step(self, *args, **kwargs):
        if self.state.global_step == 2:
            raise KeyboardInterrupt
        return whole_step(self, *args, **kwargs)

    monkeypatch.setattr(E2LLMTrainer, "training_step", broken_step)
    with pytest.raises(KeyboardInterrupt):
        realign_model(recipe, str(trained), match_steps=1)
    monkeypatch.setattr(E2LLMTrainer, "training_step", whole_step)
    monkeypatch.setattr("e2llm.training.realigning.match", lambda *_, **__: pytest.fail("matched again"))
    with pytest.raises(E2LLMError, match="contains a run with match_steps 1; give the same"):
        realign_model(recipe, str(trained), match_steps=2)
    result = realign_model(recipe, str(trained), match_steps=1)
    assert list(result.trained) == [2, 4]
    assert result.matched != result.fresh


def test_an_objective_that_lost_nothing_has_no_recovered_share(
    trained, other_encoder, recipe_of, monkeypatch
):
    losses = iter(
        [
            {"reasoning_loss": 2.0, "understanding_loss": 2.0},
            {"reasoning_loss": 1.9, "understanding_loss": 3.0},
        ]
    )
    monkeypatch.setattr("e2llm.training.realigning.held_out_losses", lambda *_: next(losses))
    decoder = {"source": str(trained), "mode": "frozen"}
    recipe = recipe_of(output="realigned", encoder={"source": other_encoder}, decoder=decoder)
    assert realign_model(recipe, str(trained), match_steps=0).recovered.keys() == {"understanding_loss"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--encoder", "/no/encoder"], "/no/encoder: no such folder"),
        (["--records", "gone.jsonl"], "no such file or folder: gone.jsonl"),
        (["-o", __file__], "is a file, but a folder of that name is needed"),
    ],
)
def test_what_is_missing_is_told_before_a_model_is_loaded(options, words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(E2LLMForConditionalGeneration, "from_pretrained", lambda *_: pytest.fail("loaded"))
    given = {"--encoder": "e", "--records": __file__, "-o": str(tmp_path / "out"), **dict([options])}
    assert entry_point(["realign", "smol", *(item for pair in given.items() for item in pair)]) == 1
    assert words in capsys.readouterr().err


def test_nothing_to_match_on_is_an_error(encoder, decoder):
    pair = (
        E2LLMForConditionalGeneration.from_parts(encoder, decoder),
        E2LLMProcessor.from_parts(encoder, decoder),
    )
    with pytest.raises(E2LLMError, match="no text to match"):
        match(pair, pair, [], steps=1)


def test_an_old_encoder_with_deltas_is_matched_as_it_is(tmp_path, encoder, decoder, other_encoder, recipe_of):
    old = train(make_recipe(tmp_path, encoder, decoder, encoder={"mode": "lora"})).folder
    settings = {"source": str(old), "mode": "frozen"}
    recipe = recipe_of(output="realigned", encoder={"source": other_encoder}, decoder=settings)
    assert realign_model(recipe, str(old), match_steps=1).folder.is_dir()


def test_the_command_realigns_a_pooling_adapter(tmp_path, encoder, decoder, other_encoder, capsys):
    adapter = {"kind": "pooling", "start": "random"}
    objectives = {"soft_tokens": [1, 2, 4, 8], "rates": [2, 4, "one"]}
    recipe = make_recipe(tmp_path, encoder, decoder, adapter=adapter, objectives=objectives)
    old = train(recipe).folder
    settings = ["train.batch_size=2", "train.evaluate_samples=2", "data.validation_fraction=0.4"]
    command = [
        "realign", str(old), "--encoder", other_encoder, "--records", str(tmp_path / "questions.jsonl"),
        "--match-steps", "2", "--steps", "2", "-o", str(tmp_path / "out"), "--json",
        *(item for value in settings for item in ("--set", value)),
    ]  # fmt: skip
    assert entry_point(command) == 0
    model, _ = load(json.loads(capsys.readouterr().out)["folder"])
    assert (model.config.adapter, model.is_trained) == ("pooling", True)
    assert model.config.encoder_config.hidden_size == 48


def test_the_command_keeps_how_the_model_splits(tmp_path, encoder, decoder, other_encoder, capsys):
    old = train(make_recipe(tmp_path, encoder, decoder, chunking={"chunk_size_chars": 48})).folder
    command = [
        "realign",
        str(old),
        "--encoder",
        other_encoder,
        "--records",
        str(tmp_path / "questions.jsonl"),
    ]
    settings = ["train.batch_size=2", "train.evaluate_samples=2", "data.validation_fraction=0.4"]
    options = ["--match-steps", "2", "--steps", "2", "-o", str(tmp_path / "out"), "--json"]
    assert entry_point([*command, *options, *(item for value in settings for item in ("--set", value))]) == 0
    result = json.loads(capsys.readouterr().out)
    processor = load(result["folder"])[1]
    assert processor.chunk_size_chars == 48
    assert entry_point([*command, "-o", str(tmp_path / "out")]) == 1
    assert "already contains a run" in capsys.readouterr().err
