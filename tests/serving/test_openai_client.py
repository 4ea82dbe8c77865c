"""The official openai client works unchanged, and what is served is what the engine answers."""

import openai
import pytest

from e2llm import Context
from served import MODEL
from tiny_models import TEXT

QUESTION = "Where is the key?"
MESSAGES = [{"role": "user", "content": QUESTION}]


@pytest.fixture(scope="module")
def llm(served):
    with served.openai() as client:
        yield client


@pytest.fixture(scope="module")
def context_id(served):
    with served.http() as http:
        return http.post("/v1/contexts", json={"text": TEXT * 3}).json()["id"]


def chat(llm, messages=MESSAGES, **options):
    extra = options.pop("extra", {})
    return llm.chat.completions.create(
        **{"model": MODEL, "messages": messages, "max_tokens": 12, **options}, extra_body=extra
    )


def test_the_models_are_listed(llm):
    listed = llm.models.list().data
    assert [item.id for item in listed] == [MODEL]
    assert llm.models.retrieve(MODEL).owned_by == "e2llm"


def test_a_chat_without_a_context_is_answered_as_by_the_engine(llm, served):
    engine = served.state.engine
    expected = engine.ask(Context.empty(), QUESTION, max_new_tokens=12)
    answer = chat(llm)
    assert answer.choices[0].message.content == expected.text
    assert answer.usage.completion_tokens == expected.usage.new_tokens
    assert answer.usage.prompt_tokens == answer.usage.original_tokens == expected.usage.raw_tokens


@pytest.mark.parametrize(
    "options",
    [{"budget": 150}, {"soft_tokens": 2}, {"expand": 0}, {"expand": 2}, {"expand": [0, 3], "soft_tokens": 1}],
)
def test_a_chat_about_a_context_is_answered_as_by_the_engine(llm, served, context_id, options):
    engine = served.state.engine
    expected = engine.ask(engine.read(TEXT * 3), QUESTION, max_new_tokens=12, **options)
    extra = {"context_ids": [context_id], "return_expanded": True, **options}
    answer = chat(llm, extra=extra)
    assert answer.choices[0].message.content == expected.text
    usage = answer.usage
    assert usage.soft_tokens == expected.usage.soft_tokens
    assert usage.raw_tokens == expected.usage.raw_tokens
    assert usage.context_tokens == expected.usage.context_tokens
    assert usage.compression == expected.usage.compression
    assert usage.prompt_tokens == usage.soft_tokens + usage.raw_tokens < usage.original_tokens
    assert usage.kv_cache_bytes < usage.original_kv_cache_bytes
    spans = [(item["start"], item["end"]) for item in answer.e2llm["expanded"]]
    assert spans == expected.expanded
    assert bool(spans) == ("expand" in options or "budget" in options) - (options.get("expand") == 0)
    assert [item["text"] for item in answer.e2llm["expanded"]] == [
        (TEXT * 3)[start:end] for start, end in spans
    ]


def test_documents_are_read_for_one_request(llm, served):
    engine = served.state.engine
    expected = engine.ask(engine.read(TEXT), QUESTION, max_new_tokens=12)
    answer = chat(llm, extra={"documents": [{"text": TEXT, "name": "notes"}]})
    assert answer.choices[0].message.content == expected.text
    assert chat(llm, extra={"documents": [TEXT]}).choices[0].message.content == expected.text


def test_a_conversation_and_its_instructions_are_laid_out_as_a_history(llm, served):
    engine = served.state.engine
    expected = engine.ask(
        Context.empty(), "Why?", history=[(f"Be brief.\n\n{QUESTION}", "Here.")], max_new_tokens=12
    )
    messages = [
        {"role": "system", "content": "Be brief."},
        *MESSAGES,
        {"role": "assistant", "content": "Here."},
        {"role": "user", "content": [{"type": "text", "text": "Why?"}]},
    ]
    assert chat(llm, messages).choices[0].message.content == expected.text


def test_a_stream_joined_is_the_whole_answer(llm, context_id):
    extra = {"context_ids": [context_id], "expand": 1}
    chat(llm, extra=extra)  # what begins alike is not read again, and usage says so
    whole = chat(llm, extra=extra)
    parts = list(chat(llm, extra=extra, stream=True, stream_options={"include_usage": True}))
    text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    assert text == whole.choices[0].message.content
    assert parts[0].choices[0].delta.role == "assistant"
    assert parts[0].e2llm["expanded"] == whole.e2llm["expanded"]
    assert parts[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert (parts[-1].choices, parts[-1].usage) == ([], whole.usage)
    assert parts[-1].e2llm["timing"]["first_token_seconds"] > 0


def test_a_seed_fixes_what_is_drawn_and_n_answers_differ(llm):
    options = {"temperature": 1.5, "top_p": 0.95, "seed": 4, "n": 3}
    first, again = chat(llm, **options), chat(llm, **options)
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in again.choices]
    assert [choice.index for choice in first.choices] == [0, 1, 2]
    assert len(set(texts)) == 3
    other = chat(llm, **{**options, "seed": 99})
    assert texts != [choice.message.content for choice in other.choices]


def test_what_an_earlier_prompt_began_with_is_not_read_again_and_usage_says_so(llm):
    documents = {"documents": ["Nothing else begins so. " + TEXT * 8], "soft_tokens": 2}
    first, second = chat(llm, extra=documents), chat(llm, extra=documents)
    assert first.usage.prompt_tokens_details.cached_tokens == 0
    assert second.usage.prompt_tokens_details.cached_tokens == second.usage.prompt_tokens - 1
    assert second.choices == first.choices


def test_several_answers_are_streamed_side_by_side(llm):
    options = {"temperature": 1.5, "seed": 4, "n": 2}
    whole = [choice.message.content for choice in chat(llm, **options).choices]
    texts = ["", ""]
    for part in chat(llm, stream=True, **options):
        for choice in part.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == whole


def test_a_stop_text_ends_the_answer(llm):
    whole = chat(llm, max_tokens=40).choices[0].message.content
    mark = whole[4:6]
    answer = chat(llm, max_tokens=40, stop=[mark])
    assert answer.choices[0].message.content == whole.split(mark)[0]
    assert answer.choices[0].finish_reason == "stop"
    streamed = "".join(
        part.choices[0].delta.content or "" for part in chat(llm, max_tokens=40, stop=mark, stream=True)
    )
    assert streamed == whole.split(mark)[0]


def test_max_tokens_ends_the_answer_with_length(llm):
    answer = chat(llm, max_tokens=3)
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (3, "length")
    newer = llm.chat.completions.create(model=MODEL, messages=MESSAGES, max_completion_tokens=3)
    assert newer.choices == answer.choices


def test_penalties_change_the_answer(llm):
    plain = chat(llm, max_tokens=40).choices[0].message.content
    assert chat(llm, max_tokens=40, frequency_penalty=2.0).choices[0].message.content != plain


def test_a_completion_goes_on_with_each_prompt(llm, served):
    processor = served.state.engine.processor
    begin = processor.tokenizer.bos_token_id
    answer = llm.completions.create(model=MODEL, prompt=["The harbour", "Mira"], max_tokens=6)
    assert [choice.index for choice in answer.choices] == [0, 1]
    ids = [begin, *processor.encode("Mira")]
    alone = served.state.engine.model.generate(
        input_ids=served.state.engine.model.get_input_embeddings().weight.new_tensor([ids]).long(),
        max_new_tokens=6,
        do_sample=False,
    )
    assert answer.choices[1].text == processor.tokenizer.decode(alone[0, len(ids) :])
    streamed = "".join(
        part.choices[0].text
        for part in llm.completions.create(model=MODEL, prompt="Mira", max_tokens=6, stream=True)
    )
    assert streamed == answer.choices[1].text


def test_a_completion_keeps_the_space_before_its_first_word(llm):
    whole = llm.completions.create(model=MODEL, prompt="Mira", max_tokens=3, n=8, temperature=2, seed=1)
    texts = [choice.text for choice in whole.choices]
    assert any(text[:1].isspace() for text in texts)
    streamed = [""] * 8
    options = {"max_tokens": 3, "n": 8, "temperature": 2, "seed": 1}
    for part in llm.completions.create(model=MODEL, prompt="Mira", stream=True, **options):
        streamed[part.choices[0].index] += part.choices[0].text
    assert streamed == texts


def test_a_completion_longer_than_the_window_is_compressed(llm):
    answer = llm.completions.create(model=MODEL, prompt=TEXT * 12, max_tokens=6)
    assert answer.usage.original_tokens > 512 > answer.usage.prompt_tokens
    assert answer.usage.messages_compressed == 1


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"model": "gpt-4"}, openai.NotFoundError, "use 'tiny'"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, openai.BadRequestError, "tools"),
        (
            {"max_tokens": 0},
            openai.BadRequestError,
            "max_tokens: Input should be greater than or equal to 1; got 0",
        ),
        ({"max_tokens": "many"}, openai.BadRequestError, "; got a text of 4 characters"),
        ({"stop": {"a": 1}}, openai.BadRequestError, "; got an object"),
        ({"max_tokens": 100_000}, openai.BadRequestError, "this server allows at most 4096"),
        ({"max_completion_tokens": 3}, openai.BadRequestError, "mean the same"),
        ({"n": 99}, openai.BadRequestError, "lower n"),
        ({"stop": [""]}, openai.BadRequestError, "stop contains an empty text"),
        ({"messages": []}, openai.BadRequestError, "messages"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, openai.BadRequestError, "last message"),
        ({"messages": [{"role": "user", "content": " "}]}, openai.BadRequestError, "last message"),
        ({"extra": {"soft_tokens": 99}}, openai.BadRequestError, "soft"),
        (
            {"extra": {"expand": [1]}},
            openai.BadRequestError,
            "expand names chunks that do not exist: [1]; the context has no chunks",
        ),
        ({"extra": {"context_ids": ["ctx_" + "0" * 24]}}, openai.NotFoundError, "there is no context"),
        ({"extra": {"context_ids": ["../../etc/passwd"]}}, openai.BadRequestError, "context_ids"),
        ({"extra": {"documents": [" "]}}, openai.BadRequestError, "text 1: the text is empty"),
    ],
)
def test_what_cannot_be_answered_is_an_error_that_says_why(llm, options, error, words):
    with pytest.raises(error) as info:
        chat(llm, **options)
    assert words in info.value.body["message"]
    assert info.value.body["type"] == "invalid_request_error"


def test_null_is_the_same_as_leaving_a_field_out(served):
    body = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 2}
    nulls = dict.fromkeys(["temperature", "stop", "stream", "stream_options", "expand", "select", "overflow"])
    with served.http() as http:
        given, left_out = (http.post("/v1/chat/completions", json=body | more).json() for more in (nulls, {}))
    assert given["choices"] == left_out["choices"]
