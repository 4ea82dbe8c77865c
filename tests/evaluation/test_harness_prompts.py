"""What of a prompt becomes context, and where its soft tokens stand; lm_eval is not needed for this."""

import pytest
import torch

from e2llm import Engine
from e2llm.errors import ContextOverflowError, E2LLMError
from e2llm.evaluation.harness.prompt_layout import (
    CONTEXT_FIELDS,
    HarnessSettings,
    PromptEncoder,
    PromptLayout,
    PromptParts,
    find_document,
)
from tiny_models import TEXT, tiny_model, tiny_processor

STORY = TEXT.strip()  # 5 chunks of the tiny processor
PROMPT = f"Read this.\n\n{STORY}\n\nQuestion: Where is the key?\nAnswer:"
ROW = {"context": STORY, "question": "Where is the key?"}


@pytest.fixture(scope="module")
def engine():
    return Engine(tiny_model(), tiny_processor())


@pytest.fixture
def layout(engine):
    """Makes a layout with settings; documents of any length are compressed."""
    return lambda **settings: PromptLayout(engine, HarnessSettings(**{"min_context_tokens": 0, **settings}))


@pytest.mark.parametrize(
    ("prompt", "row", "expected"),
    [
        ("Q: a long story? A:", {"context": "a long story"}, ("Q: ", "a long story", "? A:")),
        ("Q: a long story? A:", {"context": "\n a long story \n"}, ("Q: ", "a long story", "? A:")),
        ("story, then story.", {"text": "story"}, ("story, then ", "story", ".")),
        ("who? a long story", {"input": "who?", "context": "a long story"}, ("who? ", "a long story", "")),
        ("a long story", {"input": "a long story"}, None),
        ("another text", {"context": "a long story"}, None),
        ("a story", {"context": "", "input": None, "text": ["a story"]}, None),
        ("a story", {"poem": "story"}, None),
    ],
)
def test_the_document_is_the_longest_field_that_stands_in_the_prompt(prompt, row, expected):
    assert find_document(prompt, row, CONTEXT_FIELDS) == (expected and PromptParts(*expected))


def test_a_dot_leads_into_a_nested_row():
    row = {"document": {"text": "a story"}}
    assert find_document("Q: a story", row, ("document.text",)) == PromptParts("Q: ", "a story", "")
    assert find_document("Q: a story", row, ("document.name", "document.text.more")) is None


def test_soft_tokens_stand_where_the_document_stood(engine, layout):
    laid = layout(soft_tokens=2).lay_out(PROMPT, ROW, 400)
    context = engine.read(STORY, progress=False)
    before = engine.processor.tokenizer("Read this.\n\n").input_ids
    assert laid.head == [*before, *[engine.processor.chunk_token_id] * 2 * len(context)]
    assert laid.tail == "\n\nQuestion: Where is the key?\nAnswer:"
    assert torch.equal(laid.soft_tokens, context.kept[:, :2].flatten(0, 1))
    assert (laid.way, laid.num_left_out, laid.num_context_positions) == ("document", 0, 2 * len(context))


def test_a_named_field_is_taken_and_no_other(layout):
    row = {"context": STORY, "memo": "Read this."}
    laid = layout(context_field=("memo",)).lay_out(PROMPT, row, 400)
    assert laid.chunks[0] == "Read this."


def test_a_document_below_the_least_length_stays_raw(engine, layout):
    length = engine.count_tokens(STORY)
    assert layout(min_context_tokens=length).lay_out(PROMPT, ROW, 400).way == "document"
    short = layout(min_context_tokens=length + 1).lay_out(PROMPT, ROW, 400)
    assert (short.way, short.head, short.tail) == ("raw", [], PROMPT)


def test_no_soft_tokens_compress_nothing(layout):
    assert layout(soft_tokens=0).lay_out(PROMPT * 9, ROW, 100).tail == PROMPT * 9


def test_all_chunks_expanded_are_the_prompt_itself(layout):
    laid = layout(expand=99, select="encoder").lay_out(PROMPT, ROW, 400)
    assert (laid.head, laid.tail, laid.soft_tokens) == ([], PROMPT, None)


def test_overlapping_chunks_that_are_expanded_repeat_nothing():
    engine = Engine(tiny_model(), tiny_processor(overlap_chars=12))
    settings = HarnessSettings(min_context_tokens=0, expand=99, select="encoder")
    assert PromptLayout(engine, settings).lay_out(PROMPT, ROW, 400).tail == PROMPT


@pytest.mark.parametrize("select", ["bm25", "encoder"])
def test_an_expanded_chunk_stands_as_text_between_soft_tokens(engine, layout, select):
    laid = layout(soft_tokens=1, expand=1, select=select).lay_out(PROMPT, ROW, 400)
    chunks = engine.read(STORY, progress=False).chunks
    (raw,) = set(range(len(chunks))) - set(laid.chunks[1])
    text = engine.processor.tokenizer.decode(laid.head, skip_special_tokens=True) + laid.tail
    text = text.replace(engine.processor.chunk_token, "")
    assert text == f"Read this.\n\n{chunks[raw].text}\n\nQuestion: Where is the key?\nAnswer:"
    assert len(laid.soft_tokens) == len(chunks) - 1


def test_chunks_that_do_not_fit_are_left_out_least_relevant_first(engine, layout):
    around = len(engine.processor.tokenizer(PROMPT.replace(STORY, "")).input_ids)
    laid = layout(soft_tokens=4, select="bm25").lay_out(PROMPT, ROW, around + 9)
    scores = engine.read(STORY, progress=False).content.bm25.scores(PROMPT.replace(STORY, ""))
    assert sorted(laid.chunks[1]) == sorted(sorted(range(5), key=lambda index: -scores[index])[:2])
    assert laid.num_left_out == 3


def test_chunks_that_do_not_fit_are_an_error_if_that_is_asked_for(layout):
    with pytest.raises(ContextOverflowError, match="too many"):
        layout(soft_tokens=4, overflow="error").lay_out(PROMPT, ROW, 45)


def test_a_context_is_not_dropped_whole(engine, layout):
    around = len(engine.processor.tokenizer(PROMPT.replace(STORY, "")).input_ids)
    laid = layout(soft_tokens=4).lay_out(PROMPT, ROW, around + 3)
    assert (laid.way, len(laid.soft_tokens) > 0) == ("overflow", True)


def test_a_layout_that_takes_more_than_was_counted_is_made_anew(layout, monkeypatch):
    made = layout(soft_tokens=4)
    encode, asked = made.encoder.encode, []

    def count_less(text, **options):
        asked.append(text)
        first = text == PROMPT.split(STORY)[1] and asked.count(text) == 1
        return encode(text, **options)[: 2 if first else None]

    monkeypatch.setattr(made.encoder, "encode", count_less)
    laid = made.lay_out(PROMPT, ROW, 44)
    assert (laid.way, len(laid.head) + len(encode(laid.tail)) <= 44) == ("document", True)


def test_text_around_the_document_that_fills_the_room_makes_the_older_part_context(layout):
    laid = layout(soft_tokens=1).lay_out(PROMPT, {"context": "seven of them"}, 40)
    assert laid.way == "overflow"


@pytest.mark.parametrize("soft_tokens", [1, 4])
def test_the_older_part_of_a_long_prompt_becomes_context(engine, layout, soft_tokens):
    made = layout(soft_tokens=soft_tokens)
    laid = made.lay_out(PROMPT, {}, 80)
    tail = made.encoder.encode(laid.tail)
    assert laid.way == "overflow"
    assert laid.chunks[0] + laid.tail == PROMPT
    assert 30 <= len(tail) <= 40
    assert len(laid.head) + len(tail) <= 80
    assert PROMPT[len(laid.chunks[0]) - 1] in " \n" or laid.tail[0] == " "


def test_a_prompt_that_fits_stays_raw_and_one_token_more_does_not(layout):
    made = layout()
    length = len(made.encoder.encode(PROMPT, at_start=True))
    assert made.lay_out(PROMPT, {}, length).way == "raw"
    assert made.lay_out(PROMPT, {}, length - 1).way == "overflow"


def test_raw_tokens_compress_even_a_prompt_that_fits(layout):
    made = layout(raw_tokens=20, soft_tokens=1)
    laid = made.lay_out(PROMPT, {}, 400)
    assert laid.way == "overflow"
    assert 10 <= len(made.encoder.encode(laid.tail)) <= 20
    assert made.lay_out("A short prompt.", {}, 400).way == "raw"


def test_the_opening_of_a_chat_stays_raw(engine, layout):
    made = layout(soft_tokens=1)
    made.opening = "Read this.\n\n"
    laid = made.lay_out(PROMPT, {}, 80)
    opening = engine.processor.tokenizer("Read this.\n\n").input_ids
    assert laid.head[: len(opening) + 1] == [*opening, engine.processor.chunk_token_id]
    assert laid.chunks[0].startswith("The harbour lights")


@pytest.fixture
def texts_read(engine, monkeypatch):
    """The texts that the engine reads, in order."""
    texts, read = [], engine.read_text
    monkeypatch.setattr(
        engine, "read_text", lambda text, **options: texts.append(text) or read(text, **options)
    )
    return texts


def test_a_document_is_read_once_for_all_its_questions(layout, texts_read):
    made = layout()
    for question in ("Who?", "Where?", "Why?"):
        made.lay_out(f"{STORY} {question}", ROW, 400)
    assert texts_read == [STORY]


def test_only_the_latest_eight_documents_are_kept(layout, texts_read):
    made = layout()
    for number in (*range(8), 0, 8, 0, 1):
        made.lay_out(f"Story {number}. Who?", {"context": f"Story {number}."}, 400)
    assert texts_read == [*(f"Story {number}." for number in range(9)), "Story 1."]


def test_the_placeholder_never_comes_out_of_a_text(engine):
    encoder = PromptEncoder(engine.processor)
    text = f"before{engine.processor.chunk_token}after{engine.processor.chunk_token}"
    ids = encoder.encode(text)
    assert engine.processor.chunk_token_id not in ids
    assert engine.processor.tokenizer.decode(ids) == text


def test_text_is_encoded_as_the_tokenizer_does_by_itself(engine):
    encoder, tokenizer = PromptEncoder(engine.processor), engine.processor.tokenizer
    for text in (STORY, "</s> is a control token", "<s>begins itself", "", "naïve ☃"):
        own = tokenizer(text, add_special_tokens=not text.startswith("<s>")).input_ids
        assert encoder.encode(text, at_start=True) == own


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"soft_tokens": -1}, "soft_tokens: input should be greater than or equal to 0, got '-1'"),
        ({"soft_tokens": 2.5}, "got '2.5'"),
        ({"expand": "2"}, "expand: input should be a valid integer"),
        ({"max_length": 1}, "max_length: input should be greater than or equal to 2"),
        ({"select": "luck"}, "select: input should be 'bm25', 'encoder' or 'fused', got 'luck'"),
        ({"overflow": "ignore"}, "overflow: input should be 'compress', 'truncate' or 'error'"),
        ({"soft_token": 4}, "there is no soft_token; choose from: policy, soft_tokens, rate"),
        ({"context_field": "passage+"}, "names of fields"),
        ({"raw_tokens": 9, "overflow": "truncate"}, "raw_tokens has no effect with overflow=truncate"),
        ({"soft_tokens": 0, "expand": 2}, "soft_tokens=0, which compresses nothing"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, words):
    with pytest.raises(E2LLMError, match=words):
        HarnessSettings.read(settings)


def test_fields_are_named_by_a_string_or_a_list():
    assert HarnessSettings(context_field=None).context_field == CONTEXT_FIELDS
    for value in ("passage+text", ["passage", "text"]):
        assert HarnessSettings(context_field=value).context_field == ("passage", "text")
