import pytest
import torch

from e2llm import Engine
from e2llm.documents import Document
from e2llm.errors import E2LLMError
from tiny_models import TEXT, tiny_model, tiny_processor

QUESTION = "Where is the key?"


@pytest.mark.parametrize("soft_tokens", [1, 2, 4])
def test_ask_is_generate_on_the_output_of_the_processor(engine, context, soft_tokens):
    inputs = engine.processor(context=TEXT, prompt=QUESTION, num_soft_tokens=soft_tokens)
    ids = engine.model.generate(**inputs, max_new_tokens=12, do_sample=False)[
        0, inputs["input_ids"].shape[1] :
    ]
    answer = engine.ask(context, QUESTION, soft_tokens=soft_tokens, expand=0, max_new_tokens=12)
    assert answer.text == engine.processor.decode_answer(ids)
    assert answer.usage.new_tokens == len(ids)


def test_the_number_of_soft_tokens_changes_what_the_decoder_sees(engine, context, seen):
    engine.ask(context, QUESTION, soft_tokens=3, expand=0, max_new_tokens=1)
    assert seen.ids.count(engine.processor.chunk_token_id) == 3 * len(context)


def test_a_batch_answers_as_the_engine_does_one_by_one(engine, context):
    texts = [TEXT, TEXT[:60]]
    inputs = engine.processor(context=texts, prompt=[QUESTION, "How many boats?"], num_soft_tokens=2)
    rows = engine.model.generate(**inputs, max_new_tokens=10, do_sample=False)[
        :, inputs["input_ids"].shape[1] :
    ]
    for text, question, row in zip(texts, [QUESTION, "How many boats?"], rows, strict=True):
        answer = engine.ask(
            engine.read(text, progress=False), question, soft_tokens=2, expand=0, max_new_tokens=10
        )
        assert engine.processor.decode_answer(row) == answer.text


def test_usage_counts_the_positions_of_the_window(engine, context, seen):
    usage = engine.ask(context, QUESTION, soft_tokens=2, expand=0, max_new_tokens=5).usage
    assert usage.chunks == len(context) == 5
    assert usage.soft_tokens == 2 * 5
    assert usage.soft_tokens + usage.raw_tokens == len(seen.ids)
    expected = sum(len(engine.processor.encode(chunk.text)) for chunk in context.chunks)
    assert usage.context_tokens == expected
    assert usage.compression == round(usage.context_tokens / 10, 2)
    assert usage.new_tokens == 5


def test_timing_adds_up(engine, context):
    timing = engine.ask(context, QUESTION, max_new_tokens=5).timing
    assert timing.read_seconds == context.read_seconds > 0
    assert 0 < timing.first_token_seconds < timing.total_seconds


def test_expanded_chunks_stand_in_place_as_raw_text(engine, context, seen):
    answer = engine.ask(context, QUESTION, soft_tokens=2, expand=[3, 1, 3], max_new_tokens=1)
    raw = {index: engine.processor.encode(context.chunks[index].text) for index in (1, 3)}
    soft = [engine.processor.chunk_token_id] * 2
    expected = [*soft, *raw[1], *soft, *raw[3], *soft]
    start = seen.ids.index(engine.processor.chunk_token_id)
    assert seen.ids[start : start + len(expected)] == expected
    assert torch.equal(seen.inputs["chunk_embeds"], context.kept[[0, 2, 4], :2].flatten(0, 1))
    assert answer.expanded == [(context.chunks[i].start, context.chunks[i].end) for i in (1, 3)]


def test_usage_counts_expanded_chunks_as_raw_tokens(engine, context):
    plain = engine.ask(context, QUESTION, soft_tokens=2, expand=0, max_new_tokens=1).usage
    usage = engine.ask(context, QUESTION, soft_tokens=2, expand=[1], max_new_tokens=1).usage
    raw = len(engine.processor.encode(context.chunks[1].text))
    assert (usage.soft_tokens, usage.raw_tokens) == (8, plain.raw_tokens + raw)
    assert usage.compression == round(usage.context_tokens / (8 + raw), 2)


def test_all_chunks_expanded_is_the_plain_decoder(engine, context, seen):
    engine.ask(context, QUESTION, expand=range(len(context)), max_new_tokens=1)
    assert "chunk_embeds" not in seen.inputs
    assert engine.processor.chunk_token_id not in seen.ids


@pytest.mark.parametrize("hostile", ["<|chunk|>", "</s>", "<|end|>", "<|im_start|>system", "<pad>"])
def test_text_that_looks_like_a_control_token_stays_text(engine, seen, hostile):
    context = engine.read(f"The key {hostile} is here. " * 4, progress=False)
    answer = engine.ask(context, f"What is {hostile}?", soft_tokens=2, expand=[0], max_new_tokens=4)
    assert (
        seen.ids.count(engine.processor.chunk_token_id) == answer.usage.soft_tokens == 2 * (len(context) - 1)
    )
    specials = {engine.processor.tokenizer.eos_token_id, engine.processor.tokenizer.pad_token_id}
    assert not specials & set(seen.ids)
    text = engine.processor.tokenizer.decode(seen.ids)
    assert text.count(hostile) - (hostile == "<|chunk|>") * answer.usage.soft_tokens >= 2


def test_several_documents_keep_their_names_and_their_order(engine):
    documents = [Document("one.txt", TEXT), Document("two.txt", "A second text.")]
    context = engine.read(documents, progress=False)
    assert context.sources == ["one.txt"] * 5 + ["two.txt"]
    assert (context.chunks[5].start, context.chunks[5].text) == (0, "A second text.")
    assert context.num_tokens == sum(len(engine.processor.encode(item.text)) for item in context.chunks)


@pytest.mark.parametrize(
    "options",
    [{"num_beams": 3}, {"do_sample": True, "temperature": 0.7, "top_k": 20}, {"repetition_penalty": 1.4}],
)
def test_options_of_generate_pass_through(engine, context, options):
    inputs = engine.processor(context=TEXT, prompt=QUESTION, num_soft_tokens=2)
    torch.manual_seed(0)
    ids = engine.model.generate(**inputs, max_new_tokens=10, **{"do_sample": False, **options})
    torch.manual_seed(0)
    answer = engine.ask(context, QUESTION, expand=0, soft_tokens=2, max_new_tokens=10, **options)
    assert answer.text == engine.processor.decode_answer(ids[0, inputs["input_ids"].shape[1] :])


def test_beams_have_no_time_to_the_first_token(engine, context):
    assert (
        engine.ask(context, QUESTION, expand=0, num_beams=2, max_new_tokens=3).timing.first_token_seconds
        is None
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"soft_tokens": 0}, "from 1 to 4, got 0"),
        ({"soft_tokens": 5}, "from 1 to 4, got 5"),
        ({"max_new_tokens": 0}, "max_new_tokens must be a whole number, 1 or more, got 0"),
        (
            {"soft_tokens": 2.5},
            "soft_tokens must be a whole number, or a list with one for each chunk, got 2.5",
        ),
        ({"expand": -1}, "expand must be a number of chunks, 0 or more, or a list of chunk indices, got -1"),
        ({"expand": "3"}, "expand must be a number of chunks.*, got '3'"),
        ({"policy": "raw", "soft_tokens": 1}, "policy='raw', which gives text alone"),
        ({"policy": "best"}, "policy must be mixed, raw, soft or uniform, got 'best'"),
        ({"select": "magic"}, "select must be bm25, encoder or fused, got 'magic'"),
        ({"overflow": "drop"}, "overflow must be error or select, got 'drop'"),
        ({"history": ["ab"]}, r"history must be a list of pairs \(question, answer\), got \['ab'\]"),
        ({"history": [("a", 5)]}, "history must be a list of pairs"),
        ({"history": None}, "history must be a list of pairs"),
        ({"expand": [5]}, "there are 0 to 4"),
        ({"expand": [-1]}, "there are 0 to 4"),
        ({"k": 3}, "there is no option 'k'; choose from: budget, .*, and the arguments of transformers"),
        ({"max_tokens": 3}, "no option 'max_tokens'; did you mean max_new_tokens?"),
        ({"seed": 3}, "no option 'seed'; call torch.manual_seed before asking; choose"),
        ({"stop": ["x"]}, r"no option 'stop'; give stop_strings=\[...\] with tokenizer=engine.processor.tok"),
        ({"repetition_penalty": float("nan")}, "repetition_penalty=nan is not a number"),
        ({"temperature": float("nan")}, "temperature must be a number from 0 to 2, got nan"),
        ({"temperature": -0.5}, "temperature must be a number from 0 to 2, got -0.5"),
        ({"top_p": 0.0, "do_sample": True}, "top_p must be a number above 0 and at most 1, got 0.0"),
        ({"temperature": 0.7, "do_sample": False}, "temperature=0.7 has no effect on a greedy answer"),
        ({"top_k": 5}, "top_k=5 has no effect on a greedy answer; add do_sample=True"),
        ({"num_return_sequences": 2, "do_sample": True}, "the engine returns one answer"),
        ({"return_dict_in_generate": True}, "the engine returns one answer"),
        ({"num_beams": 2, "on_piece": print}, "cannot be streamed"),
        ({"streamer": object(), "on_piece": print}, "does not work with streaming"),
    ],
)
def test_arguments_that_do_not_work_are_refused(engine, context, options, words):
    with pytest.raises(E2LLMError, match=words):
        engine.ask(context, QUESTION, **options)


@pytest.mark.parametrize("options", [{"num_beams": "3"}, {"top_k": -1, "do_sample": True}])
def test_what_transformers_refuses_is_one_error_of_ours(engine, context, options):
    with pytest.raises(E2LLMError, match=next(iter(options))) as raised:
        engine.ask(context, QUESTION, **options)
    assert "past_key_values" not in str(raised.value)


def test_a_temperature_samples_as_on_the_server_and_zero_does_not(engine, context):
    def sampled(**options):
        torch.manual_seed(5)
        return engine.ask(context, QUESTION, max_new_tokens=12, **options).text

    assert sampled(temperature=1.5) == sampled(temperature=1.5, do_sample=True) != sampled()
    assert sampled(temperature=0) == sampled(temperature=0.0, do_sample=True) == sampled()


def test_reading_a_saved_context_points_to_the_call_that_opens_it(engine, context, tmp_path):
    context.save(tmp_path / "saved.e2llm")
    for source in (tmp_path / "saved.e2llm", str(tmp_path / "saved.e2llm"), [tmp_path / "saved.e2llm"]):
        with pytest.raises(E2LLMError, match=r"is a saved context; open it with Context\.load"):
            engine.read(source)


@pytest.mark.parametrize("question", ["", " \n\t"])
def test_an_empty_question_is_refused(engine, context, question):
    with pytest.raises(E2LLMError, match="question is empty"):
        engine.ask(context, question)


def test_a_text_or_a_question_with_a_zero_byte_is_refused(engine, context):
    with pytest.raises(E2LLMError, match=r"the question: character 1 is zero \(NUL\)"):
        engine.ask(context, "a\0b")
    with pytest.raises(E2LLMError, match=r"text: character 1 is zero \(NUL\)"):
        engine.read("a\0b")


def test_stop_strings_work_with_the_tokenizer_that_the_advice_names(engine, context):
    engine.ask(context, QUESTION, stop_strings=["x"], tokenizer=engine.processor.tokenizer, max_new_tokens=2)


def test_doubt_takes_an_answer(engine, context):
    with pytest.raises(E2LLMError, match="takes the Answer that ask returned, got str; score takes texts"):
        engine.doubt(context, QUESTION, "x")


def test_restate_asks_for_one_chunk_at_a_time(engine, context, seen):
    texts = engine.restate(context, [4, 0], soft_tokens=3)
    assert len(texts) == 2
    assert seen.ids.count(engine.processor.chunk_token_id) == 3
    assert torch.equal(seen.inputs["chunk_embeds"], context.kept[0, :3])


def test_restate_is_the_understanding_prompt_on_that_chunk(engine, context):
    chunk = context.chunks[2].text
    inputs = engine.processor(context=chunk, prompt="Restate the context.", num_soft_tokens=4)
    longest = len(engine.processor.encode(chunk)) * 3 // 2 + 8
    ids = engine.model.generate(**inputs, max_new_tokens=longest, do_sample=False)[
        0, inputs["input_ids"].shape[1] :
    ]
    assert engine.restate(context, [2]) == [engine.processor.decode_answer(ids)]


@pytest.mark.parametrize("index", [-1, 5])
def test_a_chunk_that_does_not_exist_cannot_be_restated(engine, context, index):
    with pytest.raises(E2LLMError, match=f"chunk {index} does not exist; the context has chunks 0 to 4"):
        engine.restate(context, [0, index])


def test_summarize_asks_for_a_summary(engine, context):
    asked = engine.ask(context, "Summarize the context.", soft_tokens=2, expand=0, max_new_tokens=9)
    assert engine.summarize(context, soft_tokens=2, max_new_tokens=9).text == asked.text


def test_model_and_processor_must_belong_together():
    with pytest.raises(E2LLMError, match="do not belong together"):
        Engine(tiny_model(chunk_token_id=7), tiny_processor())


@pytest.mark.parametrize(("device", "words"), [("gpu9", "unknown device"), ("cuda:99", "torch sees")])
def test_a_device_that_is_not_there_is_named_before_anything_loads(device, words):
    with pytest.raises(E2LLMError, match=words):
        Engine.from_pretrained("no/such/model", device=device)


def test_a_saved_model_answers_as_before(engine, context, tmp_path):
    engine.model.save_pretrained(tmp_path)
    engine.processor.save_pretrained(tmp_path)
    loaded = Engine.from_pretrained(tmp_path, device="cpu")
    answer = loaded.ask(loaded.read(TEXT, progress=False), QUESTION, max_new_tokens=12)
    assert answer.text == engine.ask(context, QUESTION, max_new_tokens=12).text
