"""Long prompts, rolling likelihoods and chats under lm_eval."""

import json

import pytest
import torch

from e2llm import Context, Engine
from e2llm.errors import ContextOverflowError, E2LLMError
from e2llm.evaluation import harness
from e2llm.inference.documents import Document
from tiny_models import tiny_decoder_tokenizer, tiny_model, tiny_processor

pytest.importorskip("lm_eval", reason="lm_eval is not installed; it comes with: pip install 'e2llm[harness]'")
from harness_requests import PROMPT, ROW, STORY, ask, likelihood, requests

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
    encode, answer = model.layout.raw_text.encode, " It is under the blue stone."
    monkeypatch.setattr(
        model.layout.raw_text,
        "encode",
        lambda text, **options: [] if text == answer else encode(text, **options),
    )
    likelihood(model, PROMPT, answer, ROW)
    assert model.counts["raw"] == model.counts["cut off"] == 0


# --- rolling ------------------------------------------------------------------------------------------------


def rolling(model, text):
    (total,) = model.loglikelihood_rolling(requests("loglikelihood_rolling", (text,)))
    return total


def test_a_text_that_fits_is_scored_as_plain_text(make, plain):
    assert rolling(make(), STORY) == rolling(plain, STORY)


def test_a_longer_text_is_scored_after_soft_tokens_of_what_came_before(engine, make):
    model = make(max_length=60, soft_tokens=2, raw_tokens=30)
    encoded = engine.processor.tokenizer(STORY, return_offsets_mapping=True)
    ids = encoded.input_ids
    cut = encoded.offset_mapping[60][0]
    context = engine.read(STORY[:cut], progress=False)
    num_soft = 2 * len(context)
    placeholders = [engine.processor.chunk_token_id] * num_soft
    windows = [([1, *ids[:60]], None), ([1, *placeholders, *ids[60:]], context.kept[:, :2].flatten(0, 1))]
    assert 0 < len(ids) - 60 <= 60 - num_soft
    total = 0.0
    for window, soft_tokens in windows:
        scored = ids[:60] if soft_tokens is None else ids[60:]
        with torch.no_grad():
            logits = engine.model(torch.tensor([window]), chunk_embeds=soft_tokens).logits[0]
        logits = logits[-len(scored) - 1 : -1].log_softmax(-1)
        total += logits[range(len(scored)), scored].sum().item()
    assert rolling(model, STORY) == pytest.approx(total, abs=1e-3)


def test_every_token_of_a_long_text_is_scored_once(engine, make, monkeypatch):
    model, scored = make(max_length=60, soft_tokens=2), []
    score = model._scorer.score
    monkeypatch.setattr(
        model._scorer,
        "score",
        lambda ids, count, *rest: scored.extend(ids[-count:]) or score(ids, count, *rest),
    )
    rolling(model, STORY * 4)
    assert scored == engine.processor.tokenizer(STORY * 4).input_ids
    assert model.counts["windows after soft tokens"] > 3


def test_a_window_stands_behind_the_latest_chunks_of_what_came_before(engine, make, monkeypatch):
    model, text = make(max_length=60, soft_tokens=4, raw_tokens=52), STORY * 2
    pieces, seen, append, score = [], [], Context.append, model._scorer.score
    monkeypatch.setattr(Context, "append", lambda self, piece: pieces.append(piece) or append(self, piece))
    monkeypatch.setattr(model._scorer, "score", lambda *given: seen.append(given) or score(*given))
    rolling(model, text)
    assert len(seen) > 2
    assert text.startswith("".join(pieces))
    last = engine.read([Document(str(place), piece) for place, piece in enumerate(pieces)], progress=False)
    assert torch.allclose(seen[-1][2], last.kept[-2:].flatten(0, 1))


def test_raw_tokens_that_leave_no_room_for_soft_tokens_are_refused(make):
    with pytest.raises(ContextOverflowError, match="lower raw_tokens"):
        rolling(make(max_length=60, raw_tokens=59, soft_tokens=4), STORY)


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
    assert tokenizer.eos_token_id in model.layout.raw_text.encode(laid.tail)
    assert model.chat_template(True) == CHAT


def test_a_decoder_without_a_chat_template_says_so(make):
    with pytest.raises(E2LLMError, match="no chat template; leave out apply_chat_template"):
        make().apply_chat_template([{"role": "user", "content": "Hello"}])
