import pytest
import torch

from e2llm import Engine
from e2llm.bench.full_context import compare_with_full_context, format_comparison
from e2llm.documents import Document
from e2llm.errors import ContextOverflowError
from tiny_models import TEXT, tiny_model, tiny_processor

QUESTION = "Where is the key?"
LONG = TEXT * 20


@pytest.fixture(scope="module")
def engine():
    return Engine(tiny_model(), tiny_processor())


@pytest.fixture(scope="module")
def comparison(engine):
    return compare_with_full_context(engine, LONG, QUESTION, max_new_tokens=12)


def test_soft_tokens_take_in_the_whole_text(engine, comparison):
    ours = comparison.e2llm
    assert ours.context_fraction == 1.0
    chunks = engine.read(LONG, progress=False).chunks
    assert ours.context_tokens == sum(engine.count_tokens(chunk.text) for chunk in chunks)
    assert ours.answer.text == engine.ask(engine.read(LONG), QUESTION, max_new_tokens=12).text
    assert ours.input_positions == ours.answer.usage.soft_tokens + ours.answer.usage.raw_tokens


def test_chunks_that_the_decoder_does_not_get_are_not_taken_in(engine):
    ours = compare_with_full_context(engine, LONG, QUESTION, max_new_tokens=2, budget=90).e2llm
    num_chunks = len(engine.read(LONG, progress=False))
    assert ours.answer.left_out > 0
    assert ours.context_fraction == 1 - ours.answer.left_out / num_chunks


def test_full_context_takes_in_as_much_as_the_window_takes(engine, comparison):
    full = comparison.full_context
    assert full.answer.usage.soft_tokens == 0
    assert engine.window - 2 <= full.input_positions + 12 <= engine.window
    assert 0.1 < full.context_fraction < 0.9
    assert full.context_tokens == engine.count_tokens(LONG[: round(full.context_fraction * len(LONG))])


def test_full_context_is_the_same_decoder_on_plain_tokens(engine, comparison):
    prefix = LONG[: round(comparison.full_context.context_fraction * len(LONG))]
    ids = engine.processor.lay_out([prefix], QUESTION, expand=[0]).input_ids
    assert engine.processor.chunk_token_id not in ids
    out = engine.model.language_model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)
    assert comparison.full_context.answer.text == engine.processor.decode_answer(out[0, len(ids) :])


def test_a_short_text_is_whole_in_both(engine):
    documents = [Document("one", "A key."), Document("two", "A stone.")]
    comparison = compare_with_full_context(
        engine, documents, QUESTION, soft_tokens=2, expand=0, max_new_tokens=3
    )
    assert comparison.full_context.context_fraction == comparison.e2llm.context_fraction == 1.0
    assert comparison.full_context.context_tokens == engine.count_tokens("A key.\n\nA stone.")
    assert comparison.e2llm.answer.usage.soft_tokens == 4


def test_seconds_include_reading(comparison):
    ours, full = comparison.e2llm, comparison.full_context
    assert ours.total_seconds == ours.answer.timing.read_seconds + ours.answer.timing.total_seconds
    assert 0 < ours.answer.timing.read_seconds < ours.first_token_seconds < ours.total_seconds
    assert full.answer.timing.read_seconds == 0
    assert full.to_dict()["first_token_seconds"] == full.answer.timing.first_token_seconds


def test_soft_tokens_that_do_not_fit_are_refused(engine):
    with pytest.raises(ContextOverflowError, match="too many"):
        compare_with_full_context(engine, LONG * 3, QUESTION, soft_tokens=4)


def test_pieces_are_those_of_the_answer_by_soft_tokens(engine):
    pieces = []
    comparison = compare_with_full_context(engine, TEXT, QUESTION, max_new_tokens=8, on_piece=pieces.append)
    assert "".join(pieces) == comparison.e2llm.answer.text


def test_the_table_has_a_column_for_each_way(comparison):
    lines = format_comparison(comparison).splitlines()
    assert lines[0].split() == ["e2llm", "full", "context"]
    assert lines[1].split()[-2:] == ["100.0%", f"{comparison.full_context.context_fraction:.1%}"]
    assert len({len(line) for line in lines[:7]}) == 1
    assert f"same decoder, window of 512 positions, cpu, {torch.get_num_threads()} thread" in lines[7]
