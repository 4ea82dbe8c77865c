"""Soft tokens in the decoder: places, loss, positions, packed samples."""

import pytest
import torch
from read_chunks import TWO_ANSWERS
from torch.nn import functional

from e2llm.errors import ContextOverflowError, E2LLMError
from e2llm.modeling.placeholders import PACKING_DECODERS
from tiny_models import DECODERS, TEXT, WIDTH, tiny_model

CHUNKS = ("chunk_input_ids", "chunk_attention_mask")


def test_soft_tokens_replace_placeholders_in_order_and_nothing_else(model, processor):
    inputs = processor(context=[TEXT, None, TEXT[:60]], prompt=["a", "b", "c"])
    with torch.no_grad():
        merged = model.merge(**inputs)
        soft_tokens = model.encode_chunks(inputs["chunk_input_ids"], inputs["chunk_attention_mask"], 2)
        text = model.get_input_embeddings()(inputs["input_ids"])
    place = inputs["input_ids"] == model.config.chunk_token_id
    assert place.sum() == soft_tokens.shape[0] * 2
    assert torch.equal(merged[place], soft_tokens.flatten(0, 1))
    assert torch.equal(merged[~place], text[~place])


def test_placeholders_and_chunks_that_do_not_match_are_refused(model, inputs):
    with pytest.raises(E2LLMError, match=r"the input has \d+ placeholders but no chunks"):
        model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    fewer = {name: value[1:] if name.startswith("chunk") else value for name, value in inputs.items()}
    with pytest.raises(E2LLMError, match=r"14 placeholders cannot be divided equally among 6 chunks"):
        model(**fewer)


def test_a_placeholder_that_pads_a_row_does_not_count(model):
    hole = model.config.chunk_token_id
    ids, mask = torch.tensor([[hole, hole, hole, 9]]), torch.tensor([[0, 0, 1, 1]])
    soft_token = torch.ones(1, WIDTH)
    merged = model.merge(ids, mask, chunk_embeds=soft_token)
    assert torch.equal(merged[0, 2], soft_token[0])
    assert not torch.equal(merged[0, 0], soft_token[0])


def test_placeholders_that_would_cross_samples_are_refused(model):
    hole = model.config.chunk_token_id
    ids = torch.tensor([[1, hole, hole, hole, 9], [1, hole, 9, 9, 9]])
    with pytest.raises(E2LLMError, match="sample 0 has 3 placeholders, not a multiple of the 2 soft tokens"):
        model(input_ids=ids, **{name: torch.ones(2, 3, dtype=torch.long) for name in CHUNKS})


def test_two_kinds_of_chunks_or_a_missing_mask_are_refused(model, inputs):
    with pytest.raises(E2LLMError, match="give only one of chunk_input_ids and chunk_embeds"):
        model(**inputs, chunk_embeds=torch.zeros(14, WIDTH))
    inputs.pop("chunk_attention_mask")
    with pytest.raises(E2LLMError, match="chunk_attention_mask is missing"):
        model(**inputs)


def test_stored_soft_tokens_must_be_as_many_as_the_input_asks_for(model, inputs):
    stored = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    with pytest.raises(E2LLMError, match="chunk_embeds has 7 soft tokens, but the input has 14 placeholders"):
        model(**stored, chunk_embeds=torch.zeros(7, WIDTH))


def test_an_input_longer_than_the_window_says_by_how_much(model):
    with pytest.raises(
        ContextOverflowError, match="520 positions, but the decoder's window has 512: 8 too many"
    ):
        model(input_ids=torch.ones((1, 520), dtype=torch.long))


# --- loss and positions -----------------------------------------------------------------------------------


def test_the_loss_is_the_mean_cross_entropy_of_each_label_given_what_comes_before_it(model, processor):
    batch = processor(**TWO_ANSWERS)
    with torch.no_grad():
        output = model(**batch)
    losses = []
    for row, labels in enumerate(batch["labels"]):
        for place, label in enumerate(labels):
            if label != -100:
                losses.append(functional.cross_entropy(output.logits[row, place - 1], label))
    torch.testing.assert_close(output.token_losses, torch.stack(losses))
    torch.testing.assert_close(output.loss, torch.stack(losses).mean())
    assert len(losses) == sum(int((labels != -100).sum()) for labels in batch["labels"])


def test_the_loss_of_accumulated_batches_is_that_of_one_batch(model, processor):
    samples = [("Where?", "There."), ("Who is it?", "Mira, again, at nine.")]
    whole = processor(context=[TEXT] * 2, prompt=[p for p, _ in samples], answer=[a for _, a in samples])
    count = int((whole["labels"] != -100).sum())
    parts = [processor(context=TEXT, prompt=prompt, answer=answer) for prompt, answer in samples]
    with torch.no_grad():
        total = sum(model(**part, num_items_in_batch=torch.tensor(count)).loss for part in parts)
        torch.testing.assert_close(total, model(**whole).loss, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("only_label_logits", [False, True])
def test_a_batch_without_labels_has_loss_zero_and_gradients(model, inputs, only_label_logits):
    model.train()
    labels = torch.full_like(inputs["input_ids"], -100)
    output = model(**inputs, labels=labels, only_label_logits=only_label_logits)
    assert output.loss.item() == 0
    output.loss.backward()


def test_logits_at_labels_only_train_the_same(model, processor):
    batch = processor(**TWO_ANSWERS)
    model.train()
    results = []
    for only in (False, True):
        model.zero_grad()
        model(**batch, only_label_logits=only).loss.backward()
        results.append(model.adapter.queries.grad.clone())
    torch.testing.assert_close(*results, atol=1e-6, rtol=1e-3)


def test_a_decoder_that_cannot_skip_logits_gives_the_same(model, processor):
    batch = processor(context=TEXT, prompt="Where?", answer="There.")
    with torch.no_grad():
        expected = model(**batch, only_label_logits=True)
        model._takes_logits_to_keep = False
        output = model(**batch, only_label_logits=True)
    torch.testing.assert_close(output.token_losses, expected.token_losses)
    assert output.logits.shape == expected.logits.shape


@pytest.mark.parametrize("decoder", sorted(PACKING_DECODERS))
def test_packed_samples_do_not_see_each_other(decoder):
    model = tiny_model("bert", decoder)
    torch.manual_seed(0)
    first, second = torch.randint(3, 200, (1, 9)), torch.randint(3, 200, (1, 7))
    positions = torch.cat([torch.arange(9), torch.arange(7)])[None]
    with torch.no_grad():
        both = torch.cat([first, second], dim=1)
        packed = model(input_ids=both, position_ids=positions, use_cache=False).logits
        torch.testing.assert_close(packed[:, :9], model(input_ids=first).logits, atol=2e-4, rtol=1e-3)
        torch.testing.assert_close(packed[:, 9:], model(input_ids=second).logits, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("decoder", sorted(DECODERS.keys() - PACKING_DECODERS))
def test_packing_is_refused_for_a_decoder_that_reads_across_samples(decoder):
    positions = torch.cat([torch.arange(9), torch.arange(7)])[None]
    model = tiny_model("bert", decoder)
    with pytest.raises(E2LLMError, match=f"would attend to each other in a '{decoder}' decoder"):
        model(input_ids=torch.ones_like(positions), position_ids=positions, use_cache=False)


@pytest.mark.parametrize("options", [{"attention_mask": torch.ones(1, 16)}, {"use_cache": True}, {}])
def test_packing_that_would_leak_between_samples_is_refused(model, options):
    positions = torch.cat([torch.arange(9), torch.arange(7)])[None]
    with pytest.raises(E2LLMError, match=r"packed samples.*or the samples attend to each other"):
        model(input_ids=torch.ones((1, 16), dtype=torch.long), position_ids=positions, **options)


@pytest.mark.parametrize("decoder", ["llama", "gpt2", "opt"])
def test_a_cached_step_takes_up_the_positions_of_left_padded_rows(decoder, processor):
    model = tiny_model("bert", decoder)
    inputs = processor(context=[TEXT[:90], TEXT[:40]], prompt=["Where is it?", "Who?"])
    grown = torch.ones(2, inputs["attention_mask"].shape[1] + 1, dtype=torch.long)
    grown[:, :-1] = inputs["attention_mask"]
    token = torch.tensor([[40], [41]])
    with torch.no_grad():
        cache = model(**inputs, use_cache=True).past_key_values
        step = model(input_ids=token, attention_mask=grown, past_key_values=cache).logits[:, -1]
        inputs["input_ids"] = torch.cat([inputs["input_ids"], token], dim=1)
        whole = model(**{**inputs, "attention_mask": grown}).logits[:, -1]
    torch.testing.assert_close(step, whole, atol=2e-4, rtol=1e-3)


def test_training_keeps_no_cache(model, processor):
    batch = processor(context=TEXT, prompt="Where?", answer="There.")
    assert model(**batch).past_key_values is None
