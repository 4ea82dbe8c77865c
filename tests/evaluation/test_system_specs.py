import dataclasses
from typing import ClassVar

import pytest

from e2llm import Engine
from e2llm.errors import E2LLMError
from e2llm.evaluation import systems as system_specs
from e2llm.evaluation.items import Item
from e2llm.evaluation.systems import (
    SYSTEMS,
    FullSystem,
    HybridSystem,
    SoftSystem,
    SystemSpec,
    create_systems,
    parse_systems,
)
from tiny_models import TEXT, tiny_decoder_tokenizer, tiny_model, tiny_processor


def test_a_line_names_systems_with_typed_options_in_its_order():
    specs = parse_systems("e2llm, hybrid:select=encoder,e2llm:soft_tokens=4:expand=2,bm25:model=runs/text")
    assert specs == [
        SystemSpec("e2llm", "e2llm", {}, None),
        SystemSpec("hybrid:select=encoder", "hybrid", {"select": "encoder"}, None),
        SystemSpec("e2llm:soft_tokens=4:expand=2", "e2llm", {"soft_tokens": 4, "expand": 2}, None),
        SystemSpec("bm25:model=runs/text", "bm25", {}, "runs/text"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "rag",
            "unknown system 'rag'; choose from: e2llm, hybrid, full, truncate, bm25, dense, closed-book, ",
        ),
        ("", "unknown system ''; choose from: e2llm"),
        ("e2llm,,full", "unknown system ''"),
        ("hybrid:k=4", "hybrid:k=4: there is no k; choose from: select, model"),
        ("full:engine=x", "there is no engine; choose from: model"),
        ("e2llm:soft_tokens=four", "soft_tokens: input should be a valid integer"),
        ("e2llm:soft_tokens=2.5", "soft_tokens: input should be a valid integer"),
        ("e2llm:soft_tokens=0", "soft_tokens: input should be greater than or equal to 1, got '0'"),
        ("e2llm:expand=-1", "expand: input should be greater than or equal to 0, got '-1'"),
        ("hybrid:select=dense", "select: input should be 'bm25', 'encoder' or 'fused', got 'dense'"),
        ("kvpress:press=best", "press: input should be 'expected-attention', 'keydiff', 'knorm', "),
        ("e2llm:expand", "give options as option=value"),
    ],
)
def test_what_is_unknown_or_of_the_wrong_kind_is_refused(text, message):
    with pytest.raises(E2LLMError) as caught:
        parse_systems(text)
    assert message in str(caught.value)


def test_options_are_read_by_the_types_of_the_fields(monkeypatch):
    @dataclasses.dataclass
    class Odd(FullSystem):
        share: float = 0.5
        strict: bool = False
        name: ClassVar[str] = "odd"

    monkeypatch.setitem(system_specs.SYSTEMS, "odd", Odd)
    assert parse_systems("odd:share=1e-1:strict=True")[0].options == {"share": 0.1, "strict": True}
    with pytest.raises(E2LLMError, match="strict: input should be a valid boolean"):
        parse_systems("odd:strict=2")


def test_every_system_is_there_by_its_name():
    assert [*SYSTEMS][:8] == [
        "e2llm",
        "hybrid",
        "full",
        "truncate",
        "bm25",
        "dense",
        "closed-book",
        "streaming",
    ]
    assert all(kind.name == name for name, kind in SYSTEMS.items())


def test_systems_of_one_model_share_its_engine_and_what_it_read(engine):
    other, asked = Engine(tiny_model(), tiny_processor()), []

    def engine_of(model):
        asked.append(model)
        return engine if model is None else other

    line = "e2llm:expand=1,hybrid:select=encoder,full:model=text,bm25:model=text"
    systems = create_systems(parse_systems(line), engine_of, 200)
    assert [*systems] == line.split(",")
    assert asked == [None, "text"]
    soft, hybrid, full, bm25 = systems.values()
    assert (type(soft), type(hybrid), type(full)) == (SoftSystem, HybridSystem, FullSystem)
    assert (soft.expand, hybrid.select, soft.budget) == (1, "encoder", 200)
    assert soft.readings is hybrid.readings is not full.readings
    assert full.readings is bm25.readings
    assert full.engine is other
    assert soft.answer(Item("made", "1", TEXT, "Where?", ("here",)), 4).cost.new_tokens > 0


def test_models_that_count_positions_otherwise_are_refused(engine):
    template = "{% for message in messages %}<s>{{ message['content'] }}</s>{% endfor %}"
    chatty = Engine(tiny_model(), tiny_processor(decoder_tokenizer=tiny_decoder_tokenizer(template)))
    specs = parse_systems("e2llm,full:model=chat")
    with pytest.raises(E2LLMError, match="'full:model=chat' has another tokenizer or template than that of"):
        create_systems(specs, lambda model: chatty if model else engine, None)

    tokenizer = tiny_decoder_tokenizer()
    tokenizer.add_tokens(["harbour"])
    wordy = Engine(tiny_model(decoder_tokenizer=tokenizer), tiny_processor(decoder_tokenizer=tokenizer))
    with pytest.raises(E2LLMError, match="compare models of one decoder"):
        create_systems(specs, lambda model: wordy if model else engine, None)


def test_how_the_tokenizer_was_used_last_makes_no_other_decoder_of_it(engine):
    other = Engine(tiny_model(), tiny_processor())
    other.processor.tokenizer(["a", "a b"], padding=True, truncation=True, max_length=4)
    specs = parse_systems("e2llm,full:model=text")
    assert len(create_systems(specs, lambda model: other if model else engine, None)) == 2


def test_a_budget_beyond_the_window_is_refused_at_once(engine):
    with pytest.raises(E2LLMError, match=r"full: a budget of 513 positions is more than .* window of 512"):
        create_systems(parse_systems("full"), lambda model: engine, 513)


def test_more_soft_tokens_than_the_model_makes_are_refused_at_once(engine):
    most = engine.model.config.max_soft_tokens
    assert create_systems(parse_systems(f"e2llm:soft_tokens={most}"), lambda model: engine, None)
    with pytest.raises(E2LLMError, match=f"must be from 1 to {most}, got {most + 1}"):
        create_systems(parse_systems(f"e2llm:soft_tokens={most + 1}"), lambda model: engine, None)
