"""Long prompts, rolling likelihoods and chats under lm_eval."""

import json

import pytest

from e2llm import Engine
from e2llm.errors import ContextOverflowError
from e2llm.evaluation import harness
from tiny_models import tiny_decoder_tokenizer, tiny_model, tiny_processor

pytest.importorskip("lm_eval", reason="lm_eval is not installed; it comes with: pip install 'e2llm[harness]'")
from harness_requests import PROMPT, ROW, ask, likelihood

# --- long prompts -------------------------------------------------------------------------------------------


def test_what_was_done_with_prompts_is_counted(make):
    model = make(max_length=120, soft_tokens=1)
    likelihood(model, PROMPT, " under", ROW)
    likelihood(model, PROMPT * 2, " under", {})
    likelihood(model, "Who?", " Mira", ROW)
    counts = model.get_model_info()["e2llm_prompts"]
    assert {key: counts[key] for key in ("prompts", "document", "overflow", "raw")} == {
        "prompts": 3,
        "document": 1,
        "overflow": 1,
        "raw": 1,
    }
    assert counts["context positions"] < counts["context tokens"]
    json.dumps(model.get_model_info())


def test_a_prompt_that_is_too_long_names_its_task_and_document(make):
    model = make(max_length=60, overflow="error")
    with pytest.raises(ContextOverflowError, match=r"^tiny, document 0: the prompt is \d+ tokens too long"):
        likelihood(model, PROMPT, " under", {})


def test_an_answer_longer_than_the_window_is_refused(make):
    with pytest.raises(ContextOverflowError, match=r"takes 60 of 60 positions .* lower max_gen_toks"):
        ask(make(max_length=60), PROMPT, ROW, max_gen_toks=60)


def test_every_length_of_prompt_fits_the_window(make):
    model = make(max_length=60, soft_tokens=2)
    for size in range(1, 400, 7):
        likelihood(model, PROMPT[-size:], " under the stone.", ROW)
        ask(model, PROMPT[:size], ROW, max_gen_toks=1)
    assert min(model.counts[way] for way in ("document", "overflow", "raw")) > 0


def test_a_prompt_one_longer_than_the_window_stays_raw_as_its_last_token_is_not_read(engine, make, own):
    length = len(engine.processor.tokenizer(PROMPT + "A").input_ids)
    model = make(max_length=length - 1)
    assert likelihood(model, PROMPT, "A")[0] == pytest.approx(likelihood(own, PROMPT, "A")[0], abs=1e-4)
    assert model.counts["raw"] == 1
    likelihood(make(max_length=length - 2), PROMPT, "A")


def test_a_continuation_of_more_tokens_than_expected_still_fits(make, monkeypatch):
    model = make(max_length=60, soft_tokens=4)
    encode, answer = model.layout.encoder.encode, " It is under the blue stone."
    monkeypatch.setattr(
        model.layout.encoder,
        "encode",
        lambda text, **options: [] if text == answer else encode(text, **options),
    )
    likelihood(model, PROMPT, answer, ROW)
    assert model.counts["raw"] == model.counts["cut off"] == 0


# --- chat ---------------------------------------------------------------------------------------------------

CHAT = (
    "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}bot:{% endif %}"
)


def test_a_chat_keeps_its_control_tokens_around_the_soft_tokens():
    tokenizer = tiny_decoder_tokenizer(CHAT)
    engine = Engine(tiny_model(decoder_tokenizer=tokenizer), tiny_processor(decoder_tokenizer=tokenizer))
    model = harness.E2LLMHarness(engine, soft_tokens=1, min_context_tokens=0)
    prompt = model.apply_chat_template([{"role": "user", "content": PROMPT}])
    laid = model.layout.lay_out(prompt, ROW, 400)
    assert (prompt[:9], model.layout.opening) == ("<s>user: ", "<s>user: ")
    assert laid.head.count(tokenizer.bos_token_id) == 1
    assert tokenizer.eos_token_id in model.layout.encoder.encode(laid.tail)
    assert model.chat_template(True) == CHAT
