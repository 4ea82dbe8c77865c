"""A decoder that calls tools: what it is told, what it gets, and when it must answer."""

import pytest

from e2llm import Engine
from e2llm.errors import E2LLMError
from e2llm.inference.decoding.tools import TOOLS, parse_call, run_call
from e2llm.prompts import build_template
from tiny_models import tiny_decoder_tokenizer, tiny_model, tiny_processor

BOATS = "".join(f"Boat number {i} is named after harbour {i * 7}. " for i in range(30))
QUESTION = "What is boat number 23 named after?"
TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>"
    "{% if loop.first and tools %}You may call{% for tool in tools %} {{ tool['function']['name'] }}"
    "{% endfor %}. {% endif %}{{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def call(name, **arguments):
    values = ", ".join(f'"{key}": {value}' for key, value in arguments.items())
    return f'<tool_call>\n{{"name": "{name}", "arguments": {{{values}}}}}\n</tool_call>'


@pytest.fixture
def engine():
    tokenizer = tiny_decoder_tokenizer(TEMPLATE)
    return Engine(tiny_model(decoder_tokenizer=tokenizer), tiny_processor(decoder_tokenizer=tokenizer))


@pytest.fixture
def scripted(engine, monkeypatch):
    """Lets the engine's decoder say given texts, one after the other; returns the prompts that it got."""

    def script(*texts):
        left, prompts = list(texts), []

        def decode(ids):
            return said[0]

        said = [""]
        lay_out = engine.lay_out

        def note(context, request):
            laid = lay_out(context, request)
            prompts.append(engine.processor.tokenizer.decode(laid.sample.input_ids))
            said[0] = left.pop(0)
            return laid

        monkeypatch.setattr(engine, "lay_out", note)
        monkeypatch.setattr(engine, "_decode", decode)
        return prompts

    return script


def ask(engine, **options):
    context = engine.read(BOATS, progress=False)
    return engine.ask(context, QUESTION, budget=500, max_new_tokens=2, sources="ranked", **options)


def test_the_decoder_is_told_of_the_tools_and_gets_what_they_return(engine, scripted):
    prompts = scripted(call("search", words='"harbour 161"'), call("expand", chunk=0), "Harbour 161.")
    answer = ask(engine, policy="soft", tool_calls=3)
    assert (answer.text, answer.usage.tool_calls) == ("Harbour 161.", 2)
    assert ["You may call search expand." in prompt for prompt in prompts] == [True] * 3
    assert "harbour 161" in prompts[1].rpartition("<user>")[2]
    assert QUESTION in prompts[1]
    assert "Chunk 0: Boat number 0 is named" in prompts[2].rpartition("<user>")[2]


def test_after_the_last_call_the_decoder_has_to_answer(engine, scripted):
    prompts = scripted(*[call("expand", chunk=0)] * 2, "unread")
    answer = ask(engine, policy="soft", tool_calls=1)
    assert answer.text == call("expand", chunk=0)
    assert answer.usage.tool_calls == 1
    assert ["You may call" in prompt for prompt in prompts] == [True, False]


def test_an_ordinary_answer_calls_nothing(engine, scripted):
    prompts = scripted("It is harbour 161.")
    answer = ask(engine, tool_calls=2)
    assert (answer.text, answer.usage.tool_calls, len(prompts)) == ("It is harbour 161.", 0, 1)


def test_without_tool_calls_the_decoder_is_not_told_of_tools(engine, scripted):
    prompts = scripted(call("expand", chunk=0))
    assert ask(engine).text == call("expand", chunk=0)
    assert "You may call" not in prompts[0]


def test_what_a_search_found_is_given_as_text(engine, scripted):
    scripted(call("search", words='"harbour 196"'), "Done.")
    context = engine.read(BOATS, progress=False)
    answer = engine.ask(context, QUESTION, budget=500, max_new_tokens=2, tool_calls=1)
    assert any("harbour 196" in context.chunks[index].text for index in answer.expanded_chunks)


def test_a_template_without_tools_is_told():
    engine = Engine(tiny_model(), tiny_processor())
    with pytest.raises(E2LLMError, match="no place for tools; leave tool_calls out"):
        ask(engine, tool_calls=1)
    plain = tiny_decoder_tokenizer(
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</s>{% endfor %}"
    )
    with pytest.raises(E2LLMError, match="no place for tools"):
        build_template(plain, TOOLS)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (call("expand", chunk=3), "expand"),
        ("  " + call("search", words='"a {b} c"') + "\nI wait.", "search"),
        ('{"name": "expand", "parameters": {"chunk": 3}}', "expand"),
        ("The chunk is 3.", None),
        ('{"name": "delete", "arguments": {"chunk": 3}}', None),
        ('{"name": "expand"}', None),
        ("<tool_call>{expand 3}</tool_call>", None),
        ('Say {"name": "expand", "arguments": {"chunk": 3}}', None),
    ],
)
def test_what_is_a_call(text, name):
    found = parse_call(text)
    assert (None if found is None else found.name) == name


@pytest.mark.parametrize("chunk", ["99", "-1", '"3"', "true", "null"])
def test_a_wrong_chunk_is_told_to_the_decoder(engine, chunk):
    content = engine.read(BOATS, progress=False).content
    said = run_call(parse_call(call("expand", chunk=chunk)), content)
    assert f"chunks are 0 to {len(content.chunks) - 1}" in said


def test_a_search_that_finds_nothing_says_so(engine):
    content = engine.read(BOATS, progress=False).content
    assert (
        run_call(parse_call(call("search", words='"zebra"')), content)
        == "No chunk shares a word with 'zebra'."
    )
