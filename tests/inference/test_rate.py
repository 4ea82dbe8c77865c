"""The rate through all of inference: read once at the finest, asked at any coarser one, chunk by chunk."""

import warnings

import pytest
import torch

from e2llm import ChunkStore, Context, Engine
from e2llm.errors import ContextOverflowError, E2LLMError
from e2llm.inference.content import chunk_key, look_up_or_read
from e2llm.inference.dial import Dial
from e2llm.inference.options import AskRequest
from e2llm.inference.reader import soft_tokens_of
from e2llm.inference.shared_reader import SharedReader
from e2llm.modeling.rates import count_soft_tokens
from tiny_models import TEXT, tiny_model, tiny_pooling_model, tiny_processor

QUESTION = "Where is the key?"
RATES = [2, 4, 8, "one"]


@pytest.fixture(scope="module")
def pooled():
    return Engine(tiny_pooling_model(), tiny_processor())


@pytest.fixture(scope="module")
def read(pooled):
    return pooled.read(TEXT, progress=False)


@pytest.fixture
def untrained():
    return Engine(tiny_pooling_model(trained_on=None), tiny_processor())


def lay_out(engine, context, **options):
    options = {"expand": 0, "max_new_tokens": 8, **options}
    return engine.lay_out(context, AskRequest(question=QUESTION, **options))


# --- reading ------------------------------------------------------------------------------------------------


def test_a_chunk_keeps_one_state_in_16_bits_per_finest_rate_and_its_length(pooled, read):
    lengths = [len(row) for row in pooled.processor.encode_chunk_ids(read.content.texts)]
    kept = read.content.read
    assert kept.num_tokens.tolist() == lengths
    assert [rows.shape for rows in kept.rows] == [((length + 1) // 2, 32) for length in lengths]
    assert {rows.dtype for rows in kept.rows} == {torch.float16}
    assert read.kept.shape == (len(lengths), (max(lengths) + 1) // 2, 32)
    assert not read.kept[0, len(kept.rows[0]) :].any()


def test_vectors_are_means_of_the_last_layer_not_of_what_the_adapter_reads(pooled, read):
    inputs = pooled.processor.encode_chunk_texts(read.content.texts)
    with torch.no_grad():
        _, last = pooled.model.encode_layers(**inputs)
    mask = inputs["chunk_attention_mask"].unsqueeze(-1)
    torch.testing.assert_close(read.content.read.vectors, (last * mask).sum(1) / mask.sum(1))


@pytest.mark.parametrize("rate", RATES)
def test_a_context_read_once_serves_a_rate_as_one_read_at_it(read, pooled, rate):
    finest = 64 if rate == "one" else rate
    coarse = Engine(tiny_pooling_model(), tiny_processor())
    coarse.model.set_finest_rate(finest)
    other = coarse.read(TEXT, progress=False)
    ours, theirs = (lay_out(*pair, rate=rate) for pair in ((pooled, read), (coarse, other)))
    assert ours.sample.input_ids == theirs.sample.input_ids
    torch.testing.assert_close(ours.soft_tokens, theirs.soft_tokens, atol=4e-3, rtol=4e-3)


def test_the_finest_rate_is_a_setting_and_takes_half_of_the_room(tmp_path):
    tiny_pooling_model().save_pretrained(tmp_path, self_contained=True)
    tiny_processor().save_pretrained(tmp_path)
    sizes = {}
    for finest in (2, 4, None):
        engine = Engine.from_pretrained(tmp_path, device="cpu", finest_rate=finest)
        sizes[finest] = sum(len(rows) for rows in engine.read(TEXT, progress=False).content.read.rows)
    assert sizes[None] == sizes[2]
    assert sizes[4] <= sizes[2] // 2 + 3


@pytest.mark.parametrize(
    ("model", "rate", "words"),
    [
        (tiny_model, 4, "'attention' adapter .* leave finest_rate out"),
        (tiny_pooling_model, 3, "finest_rate must be a power of two"),
        (tiny_pooling_model, "one", r"finest_rate must be a power of two \(1, 2, 4, ...\), got 'one'"),
    ],
)
def test_a_finest_rate_that_cannot_be_is_refused(model, rate, words):
    with pytest.raises(E2LLMError, match=words):
        model().set_finest_rate(rate)


def test_a_stored_context_equals_a_fresh_one_and_is_not_read_again(pooled, read, tmp_path, monkeypatch):
    with ChunkStore(tmp_path / "store") as store:
        pooled.read(TEXT, store=store, progress=False)
        again = pooled.read(TEXT, store=store, progress=False)
    assert again.content.num_encoded == 0
    assert all(map(torch.equal, again.content.read.rows, read.content.read.rows))
    assert torch.equal(again.content.read.num_tokens, read.content.read.num_tokens)
    assert torch.equal(again.content.read.vectors, read.content.read.vectors)


def test_a_store_holds_only_a_chunks_own_rows(pooled, tmp_path):
    with ChunkStore(tmp_path / "store") as store:
        look_up_or_read([TEXT[:45], "Hi."], pooled.reader, store, progress=False)
        (entry,) = store.get_many([chunk_key(pooled.reader.fingerprint, "Hi.")]).values()
    assert {name: (tuple(item.shape), item.dtype) for name, item in entry.items()} == {
        "kept": ((3, 32), torch.float16),  # of 5 tokens: 2 + 2 + 1
        "num_tokens": ((), torch.int64),
        "vector": ((32,), torch.float32),
    }


def test_a_store_of_another_finest_rate_is_read_anew(tmp_path):
    with ChunkStore(tmp_path / "store") as store:
        for finest in (2, 4, 2):
            engine = Engine(tiny_pooling_model(), tiny_processor())
            engine.model.set_finest_rate(finest)
            context = engine.read(TEXT, store=store, progress=False)
    assert context.content.num_encoded == 0  # those of rate 2 were still there


def test_a_saved_context_equals_a_fresh_one_and_answers_alike(pooled, read, tmp_path):
    read.save(tmp_path / "book.e2llm")
    loaded = Context.load(tmp_path / "book.e2llm", pooled)
    assert all(map(torch.equal, loaded.content.read.rows, read.content.read.rows))
    assert torch.equal(loaded.content.read.num_tokens, read.content.read.num_tokens)
    for rate in RATES:
        answers = [pooled.ask(item, QUESTION, rate=rate, max_new_tokens=6).text for item in (loaded, read)]
        assert answers[0] == answers[1]


def test_an_edited_context_equals_the_edited_text_read_afresh(pooled):
    context = pooled.read(TEXT, progress=False)
    context.replace(2, "Nobody knew. ")
    fresh = pooled.read(context.documents[0].text, progress=False)
    assert all(map(torch.equal, context.content.read.rows, fresh.content.read.rows))
    assert torch.equal(context.content.read.num_tokens, fresh.content.read.num_tokens)


def test_a_shared_reader_keeps_the_same(pooled, read):
    reader = SharedReader(pooled.reader)
    try:
        shared = reader.read(read.content.texts)
    finally:
        reader.close()
    assert all(map(torch.equal, shared.rows, read.content.read.rows))
    assert torch.equal(shared.num_tokens, read.content.read.num_tokens)


def test_a_file_that_keeps_less_than_the_engine_says_what_to_do(pooled, tmp_path):
    coarse = Engine(tiny_pooling_model(), tiny_processor())
    coarse.model.set_finest_rate(4)
    context = coarse.read(TEXT, progress=False)
    context.save(tmp_path / "book.e2llm")
    with pytest.raises(
        E2LLMError, match=r"one state per 4 encoder tokens, but this engine one per 2; .*finest_rate=4"
    ):
        Context.load(tmp_path / "book.e2llm", pooled)
    with pytest.raises(E2LLMError, match=r"rate 2 .* one state per 4 .* again with finest_rate=2"):
        coarse.ask(Context.load(tmp_path / "book.e2llm", coarse), QUESTION, rate=2)
    coarse.model.set_finest_rate(2)
    with pytest.raises(
        E2LLMError, match="one state per 4 encoder tokens, but the engine now keeps one per 2"
    ):
        coarse.ask(context, QUESTION)


def test_states_beyond_half_precision_are_refused():
    model = tiny_pooling_model()
    with torch.no_grad():
        model.adapter.projection.weight.mul_(1e8)
    with pytest.raises(E2LLMError, match="exceed the range of float16"):
        Engine(model, tiny_processor()).read(TEXT, progress=False)


# --- asking -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", RATES)
def test_an_answer_equals_that_of_the_model_on_the_same_text(pooled, rate):
    inputs = pooled.processor(context=TEXT, prompt=QUESTION, rate=rate)
    ids = pooled.model.generate(**inputs, max_new_tokens=8, do_sample=False)
    answer = pooled.ask(pooled.read(TEXT, progress=False), QUESTION, rate=rate, expand=0, max_new_tokens=8)
    assert answer.text == pooled.processor.decode_answer(ids[0, inputs["input_ids"].shape[1] :])
    lengths = inputs["chunk_attention_mask"].sum(1).tolist()
    assert answer.usage.soft_tokens == sum(count_soft_tokens(length, rate) for length in lengths)
    assert answer.usage.rate == rate


def test_each_chunk_may_have_its_own_rate_beside_raw_ones(pooled, read):
    rates = [2, "one", 8, 4, 2]
    laid = lay_out(pooled, read, rate=rates, expand=[1])
    lengths = read.content.read.num_tokens.tolist()
    counts = [count_soft_tokens(length, rate) for length, rate in zip(lengths, rates, strict=True)]
    assert laid.plan.counts == [counts[0], 0, *counts[2:]]
    assert laid.sample.num_soft_tokens == [counts[0], *counts[2:]]
    expected = []
    for index in (0, 2, 3, 4):
        alone = lay_out(pooled, read, rate=rates[index])
        before = sum(alone.plan.counts[:index])
        expected.append(alone.soft_tokens[before : before + counts[index]])
    torch.testing.assert_close(laid.soft_tokens, torch.cat(expected), atol=1e-5, rtol=1e-5)
    answer = pooled.ask(read, QUESTION, rate=rates, expand=[1], max_new_tokens=2)
    assert (answer.usage.rate, answer.expanded_chunks) == (None, [1])
    assert answer.usage.soft_tokens_per_chunk == -(-sum(laid.plan.counts) // 4)


def test_uniform_takes_the_finest_rate_of_training_that_fits_then_one(pooled, read):
    lengths = read.content.read.num_tokens.tolist()
    around = pooled.count_positions(QUESTION)

    def chosen(room):
        return lay_out(pooled, read, policy="uniform", budget=around + room).plan.rate

    def need(rate):
        return sum(count_soft_tokens(length, rate) for length in lengths)

    assert [chosen(need(rate)) for rate in (2, 4, 8, "one")] == [2, 4, 8, "one"]
    assert [chosen(need(rate) - 1) for rate in (2, 4, 8)] == [4, 8, "one"]


def test_without_a_note_of_training_rates_every_coarser_one_may_be_taken():
    model = tiny_pooling_model(trained_on={"text": 3, "4": 1, "32": 0})
    assert Dial(model).rates == [4]
    model.config.trained_on = None
    assert Dial(model).rates == [2, 4, 8, 16, 32, "one"]
    model.set_finest_rate(8)
    assert [level.rate for level in Dial(model).finest_first([40])] == [8, 16, 32, "one"]


def test_selection_keeps_the_most_relevant_chunks_that_fit_at_the_rate(pooled, read):
    budget = pooled.count_positions(QUESTION) + 21
    laid = lay_out(pooled, read, rate=4, budget=budget, overflow="select")
    scores = pooled.rank(read, QUESTION)
    assert laid.plan.left_out == 5 - len(laid.plan.kept) > 0
    assert max(range(5), key=lambda index: scores[index]) in laid.plan.kept
    assert sum(laid.plan.counts) <= 21
    with pytest.raises(ContextOverflowError, match=r"5 chunks at rate 4 .*use a coarser rate"):
        lay_out(pooled, read, rate=4, budget=budget)


def test_scores_streams_and_restating_take_a_rate(pooled, read):
    near, far = (pooled.score(read, QUESTION, ["It is."], rate=rate)[0] for rate in (2, "one"))
    assert near.log_likelihood != far.log_likelihood
    pieces = pooled.stream(read, QUESTION, rate=8, max_new_tokens=5)
    assert "".join(pieces) == pooled.ask(read, QUESTION, rate=8, max_new_tokens=5).text
    assert len(pooled.restate(read, [0, 3], rate="one")) == 2
    report = pooled.fidelity(read, rate=8, progress=False)
    assert (report.rate, report.to_dict()["rate"]) == (8, 8)
    assert pooled.fidelity(read, progress=False).rate == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"soft_tokens": 2},
            r"soft_tokens=2 was given, .*'pooling'.* has a rate instead.* use rate, such as 2",
        ),
        ({"rate": 1}, "rate 1 was requested, but one state per 2 .* again with finest_rate=1, or use rate 2"),
        ({"rate": 3}, "rate must be a power of two .* got 3"),
        ({"rate": "two"}, "rate must be a power of two"),
        ({"rate": [2, 4]}, "rate has 2 values, but the context has 5 chunks"),
        ({"rate": [2, 4, 4, 4, 5]}, "got 5"),
        ({"rate": 4, "soft_tokens": 2}, "soft_tokens=2 and rate=4 were given"),
    ],
)
def test_what_the_dial_does_not_have_is_refused(pooled, read, options, words):
    with pytest.raises(E2LLMError, match=words):
        pooled.ask(read, QUESTION, **options)


def test_a_rate_is_refused_where_the_dial_is_the_number_of_soft_tokens(engine, context):
    with pytest.raises(E2LLMError, match=r"rate=4 was given, .*'attention'.* use soft_tokens, from 1 to 4"):
        engine.ask(context, QUESTION, rate=4)
    with pytest.raises(E2LLMError, match="soft_tokens has 2 values, but the context has 5 chunks"):
        engine.ask(context, QUESTION, soft_tokens=[1, 2])


def test_each_chunk_may_have_its_own_number_of_soft_tokens(engine, context):
    laid = lay_out(engine, context, soft_tokens=[1, 2, 3, 4, 1])
    expected = torch.cat([context.kept[index, :count] for index, count in enumerate([1, 2, 3, 4, 1])])
    assert torch.equal(laid.soft_tokens, expected)


def test_a_rate_without_training_is_warned_of_once(read):
    engine = Engine(tiny_pooling_model(), tiny_processor())
    context = engine.read(TEXT, progress=False)
    with pytest.warns(UserWarning, match="rate 16 is used, but this model was trained at 2, 4, 8, one"):
        engine.ask(context, QUESTION, rate=16, max_new_tokens=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine.ask(context, QUESTION, rate=16, max_new_tokens=1)
        engine.ask(context, QUESTION, rate=8, max_new_tokens=1)


@pytest.mark.parametrize("trained", [[8, 16], [2], [2, 8, "one"]])
def test_a_policy_uses_rates_of_training(trained):
    engine = Engine(tiny_pooling_model(), tiny_processor())
    engine.model.config.trained_on = {str(rate): 9 for rate in trained}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        context = engine.read(TEXT, progress=False)
        answer = engine.ask(context, QUESTION, policy="uniform", expand=0, max_new_tokens=1)
    assert (answer.usage.rate, answer.usage.note) == (trained[0], None)


def test_a_budget_that_only_an_untrained_rate_fits_is_told_of_with_the_answer(read):
    engine = Engine(tiny_pooling_model(), tiny_processor())
    engine.model.config.trained_on = {"2": 9, "4": 9}
    context = engine.read(TEXT, progress=False)
    positions = engine.ask(context, QUESTION, rate="one", expand=0, max_new_tokens=1).usage
    budget = positions.soft_tokens + positions.raw_tokens
    for _ in range(2):  # the warning comes once, the note with every answer
        usage = engine.ask(context, QUESTION, expand=0, max_new_tokens=1, budget=budget).usage
        assert usage.rate == "one"
        assert usage.note.startswith("rate one is used, but this model was trained at 2, 4")


def test_the_soft_tokens_of_chunks_are_the_same_whatever_is_asked_with_them(pooled, read):
    content = read.content.read
    together = soft_tokens_of(pooled.model, content, range(5), [1] * 5)
    for index in range(5):
        alone = soft_tokens_of(pooled.model, content, [index], [1])[0]
        torch.testing.assert_close(alone, together[index], atol=1e-6, rtol=1e-5)


# --- an adapter that is not trained -------------------------------------------------------------------------


def test_an_untrained_adapter_is_answered_for_by_the_best_raw_chunks(untrained):
    context = untrained.read(TEXT * 8, progress=False)
    with pytest.warns(UserWarning, match="the adapter of this model is not trained yet"):
        answer = untrained.ask(context, QUESTION, budget=132, max_new_tokens=8)
    assert answer.usage.soft_tokens == 0
    assert 0 < len(answer.expanded_chunks) < len(context)
    assert answer.left_out == len(context) - len(answer.expanded_chunks)
    assert answer.usage.note.startswith("the adapter of this model is not trained yet")
    assert answer.usage.raw_tokens <= 140 - 8
    scores = untrained.rank(context, QUESTION)
    best = max(range(len(context)), key=lambda index: (scores[index], -index))
    assert best in answer.expanded_chunks
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        untrained.ask(context, QUESTION, budget=132, max_new_tokens=1)


@pytest.mark.filterwarnings("ignore:the adapter of this model")
def test_a_question_without_a_common_word_gets_the_first_chunks(untrained):
    context = untrained.read(TEXT * 8, progress=False)
    answer = untrained.ask(context, "Xyz?", select="bm25", budget=92, max_new_tokens=8)
    assert answer.expanded_chunks[:3] == [0, 1, 2]


@pytest.mark.filterwarnings("ignore:the adapter of this model")
def test_named_chunks_and_a_budget_hold_for_an_untrained_adapter_too(untrained):
    context = untrained.read(TEXT, progress=False)
    assert untrained.ask(context, QUESTION, expand=[3, 1], max_new_tokens=1).expanded_chunks == [1, 3]
    assert len(untrained.ask(context, QUESTION, expand=2, max_new_tokens=1).expanded_chunks) == 2
    with pytest.raises(ContextOverflowError, match=r"the best chunk takes .* positions as text"):
        untrained.ask(context, QUESTION, budget=40, max_new_tokens=20)


def test_a_rate_may_be_asked_of_an_untrained_adapter_all_the_same(untrained):
    context = untrained.read(TEXT, progress=False)
    with pytest.warns(UserWarning, match="rate 4 is used, but the adapter .* is not trained yet"):
        answer = untrained.ask(context, QUESTION, rate=4, max_new_tokens=1)
    assert answer.usage.rate == 4
    assert "not trained yet" in answer.usage.note


def test_models_that_noted_nothing_count_as_trained_where_the_dial_is_a_number(engine, untrained, pooled):
    assert engine.model.config.trained_on is None
    assert (engine.model.is_trained, untrained.model.is_trained, pooled.model.is_trained) == (
        True,
        False,
        True,
    )
