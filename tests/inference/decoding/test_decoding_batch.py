"""Answers decoded together are those decoded alone, whenever they join and leave."""

import pytest
import torch

from e2llm import Engine
from e2llm.inference.decoding.batch import PREFILL_TOKENS, DecodingBatch, DecodingRow
from e2llm.inference.decoding.generation import generate_ids
from e2llm.inference.decoding.sampling import Sampling
from e2llm.inference.options import AskRequest
from tiny_models import DECODERS, TEXT, tiny_decoder, tiny_model, tiny_processor

QUESTIONS = ["Where is the key?", "How many boats were there, and who counted them again?", "Why?"]


def engine_with(decoder):
    return Engine(tiny_model(decoder=decoder), tiny_processor())


def row_of(engine, context, question, **sampling):
    laid = engine.lay_out(context, AskRequest(question=question, max_new_tokens=8, expand=1))
    return DecodingRow(laid.sample.input_ids, laid.soft_tokens, Sampling(**{"max_new_tokens": 8, **sampling}))


def alone(engine, row):
    count = row.sampling.max_new_tokens
    return generate_ids(engine.model, row.input_ids, row.soft_tokens, max_new_tokens=count)


def run(batch):
    while len(batch):
        batch.step()


@pytest.mark.parametrize("family", sorted(DECODERS))
def test_rows_that_join_at_different_steps_get_the_answers_they_get_alone(family):
    engine = engine_with(family)
    context = engine.read(TEXT)
    rows = [row_of(engine, context, question) for question in QUESTIONS]
    expected = [alone(engine, row) for row in rows]
    batch = DecodingBatch(engine.model)
    batch.add(rows[:1])
    batch.step()
    batch.step()
    batch.add(rows[1:])
    run(batch)
    assert [row.new_ids for row in rows] == expected


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2"])
def test_a_row_that_leaves_early_does_not_change_the_others(family):
    engine = engine_with(family)
    context = engine.read(TEXT)
    rows = [row_of(engine, context, question) for question in QUESTIONS]
    expected = alone(engine, rows[2])
    rows[0] = row_of(engine, context, QUESTIONS[0], max_new_tokens=2)
    batch = DecodingBatch(engine.model)
    batch.add(rows)
    batch.step()
    batch.remove([rows[1]])
    run(batch)
    assert rows[2].new_ids == expected
    assert len(rows[1].new_ids) == 1
    assert (len(rows[0].new_ids), rows[0].finish_reason) in {(2, "length"), (1, "stop"), (2, "stop")}


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_a_prompt_read_in_pieces_gives_the_same_answer_and_lets_others_go_on(family, monkeypatch):
    monkeypatch.setattr("e2llm.inference.decoding.batch.PREFILL_TOKENS", 16)
    engine = engine_with(family)
    context = engine.read(TEXT)
    short = DecodingRow(engine.processor.encode("Why?"), None, Sampling(8))
    long = row_of(engine, context, QUESTIONS[1])
    expected = alone(engine, long)
    assert len(long.input_ids) > 32
    batch = DecodingBatch(engine.model)
    batch.add([short])
    batch.step()
    batch.add([long])
    batch.step()
    assert len(short.new_ids) == 2
    assert long.new_ids == []
    run(batch)
    assert long.new_ids == expected


def count_positions(engine, monkeypatch):
    """The decoder positions of each pass from now on."""
    sizes = []
    forward = engine.model.forward

    def counted(*args, **kwargs):
        given = kwargs.get("inputs_embeds", kwargs.get("input_ids"))
        sizes.append(given.shape[0] * given.shape[1])
        return forward(*args, **kwargs)

    monkeypatch.setattr(engine.model, "forward", counted)
    return sizes


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_what_prompts_begin_with_alike_is_read_once_and_changes_no_answer(family, monkeypatch):
    engine = engine_with(family)
    context = engine.read(TEXT * 6)
    rows = [
        DecodingRow(laid.sample.input_ids, laid.soft_tokens, Sampling(6))
        for laid in (
            engine.lay_out(
                context, AskRequest(question=question, policy="uniform", expand=0, max_new_tokens=8)
            )
            for question in QUESTIONS
        )
    ]
    expected = [alone(engine, row) for row in rows]
    sizes = count_positions(engine, monkeypatch)
    batch = DecodingBatch(engine.model, prefix_bytes=2**24)
    for row in rows:
        batch.add([row])
        run(batch)
    assert [row.new_ids for row in rows] == expected
    whole = [len(row.input_ids) for row in rows]
    assert max(sizes) == whole[0]
    assert sorted(sizes, reverse=True)[1] < whole[1] / 2


def test_prompts_that_differ_in_one_soft_token_share_only_what_comes_before_it():
    engine = engine_with("llama")
    context = engine.read(TEXT * 6)
    laid = engine.lay_out(context, AskRequest(question=QUESTIONS[0], expand=0, max_new_tokens=8))
    changed = laid.soft_tokens.clone()
    changed[-2] += 0.5
    one = DecodingRow(laid.sample.input_ids, laid.soft_tokens, Sampling(6))
    other = DecodingRow(laid.sample.input_ids, changed, Sampling(6))
    expected = alone(engine, other)
    batch = DecodingBatch(engine.model, prefix_bytes=2**24)
    for row in (one, other):
        batch.add([row])
        run(batch)
    assert other.new_ids == expected


def test_a_drawn_answer_depends_on_its_seed_and_not_on_what_is_decoded_beside_it():
    engine = engine_with("llama")
    context = engine.read(TEXT)
    sampling = {"temperature": 1.0, "top_p": 0.9, "seed": 5}
    lone = row_of(engine, context, QUESTIONS[0], **sampling)
    batch = DecodingBatch(engine.model)
    batch.add([lone])
    run(batch)
    beside = [
        row_of(engine, context, QUESTIONS[1], temperature=1.0, seed=1),
        row_of(engine, context, QUESTIONS[0], **sampling),
        row_of(engine, context, QUESTIONS[0], **{**sampling, "seed": 6}),
    ]
    batch.add(beside)
    run(batch)
    assert beside[1].new_ids == lone.new_ids
    assert beside[2].new_ids != lone.new_ids


def test_the_placeholder_is_never_chosen():
    engine = engine_with("llama")
    with torch.no_grad():
        engine.model.get_output_embeddings().weight[engine.model.config.chunk_token_id] = 100.0
    row = row_of(engine, engine.read(TEXT), QUESTIONS[0], temperature=2.0, seed=1)
    batch = DecodingBatch(engine.model)
    batch.add([row])
    run(batch)
    assert engine.model.config.chunk_token_id not in row.new_ids


def test_an_end_token_ends_a_row_with_stop():
    decoder = tiny_decoder("llama", tie_word_embeddings=False)
    with torch.no_grad():
        decoder.lm_head.weight.zero_()  # all logits are equal: the first id is the likeliest
    engine = Engine(tiny_model(decoder=decoder), tiny_processor())
    engine.model.generation_config.eos_token_id = [0, 2]
    row = row_of(engine, engine.read(TEXT), QUESTIONS[0])
    batch = DecodingBatch(engine.model)
    batch.add([row])
    run(batch)
    assert (row.new_ids, row.finish_reason) == ([0], "stop")


def test_an_answer_is_not_ended_before_its_least_length():
    engine = engine_with("llama")
    engine.model.generation_config.eos_token_id = list(range(300))
    context = engine.read(TEXT)
    rows = [row_of(engine, context, QUESTIONS[0], min_new_tokens=3), row_of(engine, context, QUESTIONS[0])]
    batch = DecodingBatch(engine.model)
    batch.add(rows)
    run(batch)
    assert min(rows[0].new_ids[:3]) >= 300
    assert len(rows[0].new_ids) >= 4 > len(rows[1].new_ids)


def test_many_short_prompts_are_read_in_one_pass(monkeypatch):
    engine = engine_with("llama")
    context = engine.read(TEXT)
    rows = [row_of(engine, context, question) for question in QUESTIONS]
    sizes = count_positions(engine, monkeypatch)
    batch = DecodingBatch(engine.model)
    batch.add(rows)
    batch.step()
    assert len(sizes) == 1
    assert sizes[0] == 3 * max(len(row.input_ids) for row in rows) <= PREFILL_TOKENS
