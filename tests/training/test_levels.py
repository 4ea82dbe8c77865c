"""Training the pooling adapter: rates, raw chunks, several questions, soft targets, a rate for each part."""

import math
import random
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from small_parts import assert_same_weights, questions, texts

from e2llm import E2LLMForConditionalGeneration
from e2llm.errors import CheckpointError
from e2llm.modeling.rates import parse_rate
from e2llm.records import Record, write_records
from e2llm.training.build import build_model, set_trainable
from e2llm.training.cpu_speed import PACKED_ATTENTION
from e2llm.training.distillation import as_teacher, attach_teacher, divergence, teacher_logits
from e2llm.training.recipes.objectives import ObjectivesSection
from e2llm.training.run import make_trainer, train
from e2llm.training.samples.collator import SampleCollator
from e2llm.training.samples.data_files import load_sources
from e2llm.training.samples.levels import LevelDraw, count_levels
from e2llm.training.samples.sample_set import SampleSet

POOLING = {"kind": "pooling", "finest_rate": 1, "start": "random"}
NUMBERS = [1, 2, 4, 8]  # the default, which is not looked at
RATES = {"rates": [1, 2, 4, "one"], "soft_tokens": NUMBERS}


@pytest.fixture
def pooling(recipe_of, tmp_path):
    """Makes a recipe of the pooling adapter whose contexts have three questions each."""
    records = [
        replace(record, prompt=f"{record.prompt[:-1]} number {turn}?")
        for record in questions(4)
        for turn in range(3)
    ]
    file = tmp_path / "several.jsonl"
    write_records(file, records)

    def make(objectives=None, **sections):
        sections.setdefault("adapter", POOLING)
        sections.setdefault("decoder", {"mode": "lora"})
        sections.setdefault("data", {"train": [{"path": str(file)}], "validation_fraction": 0.0})
        return recipe_of(objectives={**RATES, **(objectives or {})}, **sections)

    return make


def sample_set(recipe, count=40):
    sources = load_sources(recipe.data.train)
    _, processor = build_model(recipe, sources)
    return SampleSet(sources, recipe, processor, count), processor


def test_any_run_of_samples_has_all_rates_by_their_weights():
    settings = ObjectivesSection(rates=[2, 4, "one"], rate_weights=[2, 1, 1])
    draw = LevelDraw(settings, seed=3)
    for first in (0, 17, 1000):
        drawn = [draw.rate_of(first + index) for index in range(8)]
        assert 3 <= drawn.count(2) <= 5
        assert {2, 4, "one"} == set(drawn)


def test_a_mixed_sample_has_several_rates_and_raw_chunks_and_one_soft_chunk_at_least():
    draw = LevelDraw(ObjectivesSection(mixed_fraction=1.0), seed=0)
    seen = [draw.draw(3, index, random.Random(index), keep_soft=True) for index in range(200)]
    assert all(len(levels.expand) < 3 for levels in seen)
    counts = count_levels([levels.names for levels in seen])
    assert 120 < counts["text"] < 180  # a quarter
    assert len(counts) > 3
    assert sum(counts.values()) == 600


def test_a_restated_window_has_the_rate_of_its_sample(pooling):
    samples, processor = sample_set(pooling({"understanding": {"fraction": 1.0, "window_chunks": [2]}}))
    for index in range(12):
        sample = samples[index]
        rate = samples.levels.rate_of(index)
        assert set(sample.levels) == {str(rate)}
        wanted = processor.count_soft_tokens(sample.decoder_input.chunks, range(2), None, rate)
        assert sample.decoder_input.num_soft_tokens == wanted


def test_a_continued_window_is_followed_by_the_next_chunk(pooling, tmp_path):
    file = tmp_path / "texts.jsonl"
    write_records(file, texts(3))
    data = {"train": [{"path": str(file)}], "validation_fraction": 0.0}
    settings = {"understanding": {"fraction": 1.0, "window_chunks": [1], "continue_fraction": 1.0}}
    samples, processor = sample_set(pooling(settings, data=data))
    contexts = [record.context for pool in samples.pools["understanding"][0] for record in pool]
    for index in range(8):
        made = samples[index].decoder_input
        answer = processor.decode_answer([label for label in made.labels if label != -100])
        assert any(
            made.chunks[0] in context and answer in context[context.index(made.chunks[0]) :]
            for context in contexts
        )
        assert answer not in made.chunks[0]


def test_questions_of_one_context_are_turns_of_one_sample(pooling):
    settings = {"understanding": {"fraction": 0.0}, "reasoning": {"turns": 3}}
    samples, processor = sample_set(pooling(settings))
    one, _ = sample_set(pooling({"understanding": {"fraction": 0.0}}))
    several, alone = samples[0].decoder_input, one[0].decoder_input
    end = processor.template.after_answer[0]
    assert several.labels.count(end) == 3
    assert alone.labels.count(end) == 1
    assert several.chunks == alone.chunks


@pytest.fixture
def teacher(recipe_of, pooling):
    """Folder of a decoder that was trained on raw text."""
    recipe = recipe_of(
        encoder={"mode": "frozen"},
        decoder={"mode": "lora", "lora": {"rank": 4}},
        adapter={"mode": "frozen"},
        objectives={
            "understanding": {"fraction": 0.0},
            "reasoning": {"context": "text"},
            "soft_tokens": NUMBERS,
        },
        train={"steps": 2, "save_every_steps": 2, "evaluate_every_steps": 2},
    )
    return train(recipe.model_copy(update={"output": f"{recipe.folder}-text"})).folder


def with_teacher(pooling, teacher, **sections):
    settings = {
        "understanding": {"fraction": 0.0},
        "distillation": {"teacher": str(teacher), "weight": 0.5},
    }
    return pooling(settings, **sections)


def test_the_divergence_is_the_written_out_formula():
    torch.manual_seed(0)
    logits, wanted = torch.randn(5, 7), torch.randn(5, 7)
    q, p = logits.softmax(1), wanted.softmax(1)
    by_hand = sum(
        float(p[row, token]) * (math.log(float(p[row, token])) - math.log(float(q[row, token])))
        for row in range(5)
        for token in range(7)
    )
    assert divergence(logits, wanted).item() == pytest.approx(by_hand, rel=1e-4)


@torch.no_grad()
def test_the_teachers_logits_are_those_of_its_own_checkpoint(pooling, teacher):
    recipe = with_teacher(pooling, teacher)
    model, processor = build_model(recipe, load_sources(recipe.data.train))
    set_trainable(model, recipe)
    attach_teacher(model, str(teacher))
    samples, _ = sample_set(recipe)
    batch = SampleCollator(processor)([samples[0], samples[1]])
    assert len(batch["teacher"]["input_ids"]) == 2
    made = teacher_logits(model, batch["teacher"])
    alone = E2LLMForConditionalGeneration.from_pretrained(teacher)
    wanted = alone(**batch["teacher"], only_label_logits=True).logits
    torch.testing.assert_close(made, wanted, atol=1e-4, rtol=1e-4)
    student = model(
        **{name: batch[name] for name in batch if name.startswith(("chunk", "input", "att", "lab"))}
    )
    assert student.logits.isfinite().all()


def test_the_teacher_never_trains_and_is_not_saved(pooling, teacher, tmp_path):
    recipe = with_teacher(pooling, teacher)
    model, _ = build_model(recipe, load_sources(recipe.data.train))
    set_trainable(model, recipe)
    before = {name for name, item in model.named_parameters() if item.requires_grad}
    attach_teacher(model, str(teacher))
    with as_teacher(model):
        pass
    assert {name for name, item in model.named_parameters() if item.requires_grad} == before
    model.save_pretrained(tmp_path / "saved")
    E2LLMForConditionalGeneration.from_pretrained(tmp_path / "saved")


def test_the_loss_of_a_step_holds_the_divergence_with_its_weight(pooling, teacher):
    recipe = with_teacher(pooling, teacher, train={"steps": 1, "batch_size": 2})
    trainer = make_trainer(recipe)
    model = trainer.model.eval()
    batch = trainer.data_collator([trainer.train_dataset[0], trainer.train_dataset[1]])
    with torch.no_grad():
        loss, outputs = trainer.compute_loss(model, dict(batch), return_outputs=True)
        far = divergence(outputs.logits, teacher_logits(model, batch["teacher"]))
    count = len(outputs.token_losses)
    wanted = outputs.token_losses.mean() + 0.5 * far / count
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_a_teacher_without_deltas_of_a_decoder_is_refused(pooling, tmp_path):
    recipe = pooling({"understanding": {"fraction": 0.0}})
    model, _ = build_model(recipe, load_sources(recipe.data.train))
    model.save_pretrained(tmp_path / "plain")
    set_trainable(model, recipe)
    with pytest.raises(CheckpointError, match="has no LoRA deltas of a decoder"):
        attach_teacher(model, str(tmp_path / "plain"))


def test_each_part_has_its_learning_rate(pooling):
    recipe = pooling(
        encoder={"mode": "lora", "learning_rate": 2e-4},
        adapter={**POOLING, "learning_rate": 1e-3},
        decoder={"mode": "lora"},
        train={"steps": 10, "learning_rate": 1e-4, "schedule": "linear", "warmup_fraction": 0.2},
    )
    trainer = make_trainer(recipe)
    trainer.create_optimizer_and_scheduler(10)
    rates = {group["part"]: group["initial_lr"] for group in trainer.optimizer.param_groups}
    assert rates == {"encoder": 2e-4, "adapter": 1e-3, "decoder": 1e-4}
    grouped = [id(item) for group in trainer.optimizer.param_groups for item in group["params"]]
    trained = [id(item) for item in trainer.model.parameters() if item.requires_grad]
    assert sorted(grouped) == sorted(trained)
    shares = [shape(step) for shape in trainer.lr_scheduler.lr_lambdas for step in (0, 1, 2, 6, 10)]
    assert shares == [0, 0.5, 1, 0.5, 0] * len(trainer.optimizer.param_groups)


def test_a_run_that_is_resumed_equals_one_in_one_go_and_counts_its_levels(pooling):
    settings = {"mixed_fraction": 0.5, "reasoning": {"turns": 2}}
    options = {"save_every_steps": 2, "evaluate_every_steps": 4, "final": "last", "batch_size": 2}

    def recipe(name, steps):
        made = pooling(
            settings,
            adapter={**POOLING, "learning_rate": 1e-3},
            train={**options, "steps": steps, "schedule": "constant", "warmup_fraction": 0.0},
        )
        return made.model_copy(update={"output": str(made.folder.parent / name)})

    whole = train(recipe("whole", 4))
    part = recipe("parts", 4)
    train(part.model_copy(update={"train": part.train.model_copy(update={"steps": 2})}))
    (part.folder / "result.json").unlink()
    again = train(part, resume=True)
    assert_same_weights(whole.folder, again.folder)
    counts = [
        E2LLMForConditionalGeneration.from_pretrained(result.folder).config.trained_on
        for result in (whole, again)
    ]
    assert counts[0] == counts[1]
    assert set(counts[0]) <= {"1", "2", "4", "one", "text"}
    assert sum(counts[0].values()) > 8


@pytest.mark.parametrize(
    ("sections", "problem"),
    [
        (
            {"objectives": {"soft_tokens": [2]}},
            "objectives.soft_tokens has no effect with adapter.kind: pooling",
        ),
        ({"adapter": {**POOLING, "finest_rate": 4}}, "rates 1 is finer than the kept states"),
        ({"objectives": {"rates": [3]}}, "must be a power of two"),
        ({"adapter": {"kind": "attention"}}, "objectives.rates works with adapter.kind: pooling only"),
        (
            {"decoder": {"mode": "full"}, "objectives": {"distillation": {"teacher": "x"}}},
            "distillation.teacher needs decoder.mode: lora, got full",
        ),
    ],
)
def test_recipes_that_contradict_themselves_are_refused(pooling, sections, problem):
    with pytest.raises((ValidationError, ValueError), match=problem):
        pooling(**sections)


def test_a_new_adapter_starts_at_the_ridge_solution(pooling, capsys):
    recipe = pooling(adapter={**POOLING, "start": "ridge"})
    model, _ = build_model(recipe, load_sources(recipe.data.train))
    assert "ridge start: R2" in capsys.readouterr().err
    assert not model.adapter.head.down.weight.any()


@torch.no_grad()
def test_packed_samples_of_different_rates_have_the_losses_of_padded_ones(pooling):
    recipe = pooling({"mixed_fraction": 0.5, "reasoning": {"turns": 2}})
    model, processor = build_model(recipe, load_sources(recipe.data.train))
    samples, _ = sample_set(recipe)
    chosen = [samples[index] for index in range(6)]

    def losses(**options):
        batch = SampleCollator(processor, **options)(chosen)
        objectives, _ = batch.pop("objectives"), batch.pop("levels")
        made = model(**batch, only_label_logits=True, use_cache=False).token_losses
        labelled = batch["labels"][:, 1:].ne(-100)
        return made.sum(), objectives[:, 1:][labelled].bincount()

    padded, counts = losses()
    for options in ({"packs": True}, {"packs": True, "one_row": True}):
        packed, packed_counts = losses(**options)
        torch.testing.assert_close(packed, padded, atol=1e-3, rtol=1e-4)
        assert torch.equal(packed_counts, counts)


def test_a_chunk_of_blanks_is_restated_at_a_rate_as_any_other(pooling, tmp_path):
    file = tmp_path / "blanks.jsonl"
    write_records(file, [Record(f"A boat.{' ' * 80}Two boats, and no more.", "", "")])
    data = {"train": [{"path": str(file)}], "validation_fraction": 0.0}
    settings = {"understanding": {"fraction": 1.0, "window_chunks": [1], "chunk_sizes_chars": [16]}}
    samples, processor = sample_set(pooling(settings, data=data))
    drawn = [samples[index] for index in range(30)]
    assert any(not text.strip() for sample in drawn for text in sample.decoder_input.chunks)
    for sample in drawn:
        wanted = processor.count_soft_tokens(
            sample.decoder_input.chunks, [0], None, parse_rate(sample.levels[0])
        )
        assert sample.decoder_input.num_soft_tokens == wanted


@pytest.mark.parametrize("packs", [True, False])
def test_packed_rows_are_sped_up_on_a_cpu(pooling, packs):
    trainer = make_trainer(pooling(train={"packing": packs, "steps": 1}))
    is_fast = trainer.model.language_model.config._attn_implementation == PACKED_ATTENTION
    assert is_fast == trainer.data_collator.one_row == packs
