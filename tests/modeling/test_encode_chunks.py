"""From chunks to soft tokens to the loss: order, memory, gradients, positions."""

import pytest
import torch
from torch.nn import functional

from e2llm.errors import ContextOverflowError, E2LLMError
from e2llm.modeling import lora
from e2llm.modeling.merging import PACKING_DECODERS, plan_passes
from e2llm.modeling.processor import DecoderInput
from tiny_models import DECODERS, TEXT, WIDTH, tiny_decoder, tiny_model, tiny_processor

TWO_ANSWERS = {
    "context": [TEXT, TEXT[:50]],
    "prompt": ["Where?", "Who is it?"],
    "answer": ["There.", "Mira, again."],
}


@pytest.fixture
def chunks():
    """Nine chunks of 3 to 40 tokens, in no order."""
    torch.manual_seed(4)
    lengths = torch.tensor([7, 40, 3, 12, 40, 5, 30, 3, 21])
    ids = torch.randint(5, 100, (9, 40))
    return {"chunk_input_ids": ids, "chunk_attention_mask": (torch.arange(40) < lengths[:, None]).long()}


def gradients(model, chunks, num_soft_tokens=2):
    model.zero_grad()
    model.encode_chunks(**chunks, num_soft_tokens=num_soft_tokens).pow(3).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def plain_soft_tokens(model, chunks, num_soft_tokens=2):
    """Each chunk alone, without padding, sorting or checkpointing."""
    rows = []
    for ids, mask in zip(chunks["chunk_input_ids"], chunks["chunk_attention_mask"], strict=True):
        one, real = ids[mask.bool()][None], mask[mask.bool()][None]
        rows.append(model.adapt(model.encode_states(one, real), real, num_soft_tokens))
    return torch.cat(rows)


@pytest.mark.parametrize("encoder_batch_tokens", [1, 64, 100_000])
def test_chunks_come_back_in_their_order_whatever_the_passes(model, chunks, encoder_batch_tokens):
    model.config.encoder_batch_tokens = encoder_batch_tokens
    with torch.no_grad():
        soft_tokens = model.encode_chunks(**chunks, num_soft_tokens=2)
        expected = plain_soft_tokens(model, chunks)
    torch.testing.assert_close(soft_tokens, expected, atol=2e-4, rtol=1e-3)


def test_passes_hold_similar_lengths_and_at_most_the_tokens_allowed(chunks):
    passes = list(plan_passes(chunks["chunk_attention_mask"], 64))
    assert [(rows.tolist(), length) for rows, length in passes] == [
        ([1], 40),
        ([4], 40),
        ([6, 8], 30),
        ([3, 0, 5, 2, 7], 12),
    ]


@pytest.mark.parametrize("mode", ["frozen", "lora", "full"])
def test_checkpointed_gradients_equal_the_plain_ones(model, chunks, mode):
    lora.set_modes(model, encoder=mode)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.train()
    model.chunk_encoder.eval()  # without dropout, so that the two can be compared
    model.config.encoder_batch_tokens = 64
    checkpointed = gradients(model, chunks)
    model.zero_grad()
    plain_soft_tokens(model, chunks).pow(3).sum().backward()
    plain = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert set(checkpointed) == set(plain)
    assert any("chunk_encoder" in name for name in plain) == (mode != "frozen")
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, atol=1e-6, rtol=5e-3, msg=name)


def test_dropout_in_a_checkpointed_pass_is_the_same_when_it_is_run_again(model, chunks):
    lora.set_modes(model, encoder="lora", encoder_lora=lora.LoraSettings(dropout=0.5))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.train()
    model.config.encoder_batch_tokens = 64
    torch.manual_seed(0)
    direction = torch.randn(9, 2, WIDTH)
    parameter = next(p for name, p in model.named_parameters() if "lora_B" in name)

    def loss():
        torch.manual_seed(1)
        return (model.encode_chunks(**chunks, num_soft_tokens=2) * direction).sum()

    model.zero_grad()
    loss().backward()
    step, place = 1e-3, (0, 0)
    with torch.no_grad():
        parameter[place] += step
        above = loss()
        parameter[place] -= 2 * step
        below = loss()
    assert ((above - below) / (2 * step)).item() == pytest.approx(
        parameter.grad[place].item(), rel=0.05, abs=0.02
    )


@pytest.mark.parametrize("mode", ["frozen", "full"])
def test_memory_kept_for_the_backward_pass_does_not_grow_with_the_encoder(model, mode):
    """Kept per chunk: at most its token states, not the activations of the layers or the adapter."""
    lora.set_modes(model, encoder=mode)
    model.train()
    model.config.encoder_batch_tokens = 64
    kept = []

    def pack(tensor):
        kept.append(tensor)
        return tensor

    def bytes_kept(num_chunks):
        kept.clear()
        ids = torch.full((num_chunks, 16), 9)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model.encode_chunks(ids, torch.ones_like(ids), num_soft_tokens=2).sum()
        parameters = {p.data_ptr() for p in model.parameters()}
        return sum(t.numel() * t.element_size() for t in kept if t.data_ptr() not in parameters)

    inputs, states = (16 + 16 + 1) * 8, 16 * WIDTH * 4  # ids, mask and place; float32 states
    growth = (bytes_kept(68) - bytes_kept(4)) / 64
    assert growth <= inputs + (states if mode == "frozen" else 0)


def test_only_what_trains_gets_gradients(model, chunks):
    assert all(name.startswith("adapter.") for name in gradients(model.train(), chunks))


def test_a_chunk_that_is_empty_or_too_long_is_refused(model, chunks):
    chunks["chunk_attention_mask"][2] = 0
    with pytest.raises(E2LLMError, match="chunk 2 has no token"):
        model.encode_chunks(**chunks)
    long = torch.full((1, 600), 9)
    with pytest.raises(E2LLMError, match="a chunk has 600 encoder tokens, the encoder reads 512"):
        model.encode_chunks(long, torch.ones_like(long))


def test_no_chunks_give_no_soft_tokens(model):
    none = torch.zeros((0, 5), dtype=torch.long)
    assert model.encode_chunks(none, none, 3).shape == (0, 3, WIDTH)


@pytest.mark.parametrize("count", [0, 5])
def test_the_number_of_soft_tokens_must_be_in_range(model, chunks, count):
    with pytest.raises(E2LLMError, match=f"must be from 1 to 4, got {count}"):
        model.encode_chunks(**chunks, num_soft_tokens=count)


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
    with pytest.raises(E2LLMError, match=r"the input has \d+ placeholders and no chunks"):
        model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    fewer = {name: value[1:] if name.startswith("chunk") else value for name, value in inputs.items()}
    with pytest.raises(E2LLMError, match=r"14 placeholders do not divide among 6 chunks"):
        model(**fewer)


def test_a_placeholder_that_pads_a_row_does_not_count(model):
    hole = model.config.chunk_token_id
    ids, mask = torch.tensor([[hole, hole, hole, 9]]), torch.tensor([[0, 0, 1, 1]])
    soft_token = torch.ones(1, 1, WIDTH)
    merged = model.merge(ids, mask, chunk_embeds=soft_token)
    assert torch.equal(merged[0, 2], soft_token[0, 0])
    assert not torch.equal(merged[0, 0], soft_token[0, 0])


def test_placeholders_that_would_cross_samples_are_refused(model):
    hole = model.config.chunk_token_id
    ids = torch.tensor([[1, hole, hole, hole, 9], [1, hole, 9, 9, 9]])
    with pytest.raises(E2LLMError, match="sample 0 has 3 placeholders, no multiple of the 2 soft tokens"):
        model(input_ids=ids, chunk_embeds=torch.zeros(2, 2, WIDTH))


def test_two_kinds_of_chunks_or_a_missing_mask_are_refused(model, inputs):
    with pytest.raises(E2LLMError, match="give only one of chunk_input_ids, chunk_states and chunk_embeds"):
        model(**inputs, chunk_embeds=torch.zeros(7, 2, WIDTH))
    inputs.pop("chunk_attention_mask")
    with pytest.raises(E2LLMError, match="chunk_attention_mask is missing"):
        model(**inputs)


def test_stored_soft_tokens_must_be_as_many_as_the_input_asks_for(model, inputs):
    stored = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    with pytest.raises(E2LLMError, match="chunk_embeds holds 1 soft tokens per chunk, the input asks for 2"):
        model(**stored, chunk_embeds=torch.zeros(7, 1, WIDTH))


def test_an_input_longer_than_the_window_says_by_how_much(model):
    with pytest.raises(ContextOverflowError, match="520 positions, the decoder's window has 512: 8 too many"):
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


# --- parameters that a batch does not use ------------------------------------------------------------------


def test_a_batch_without_chunks_gives_every_trainable_parameter_a_gradient(model, processor):
    lora.set_modes(model, encoder="lora", decoder="lora")
    model.train()
    batch = processor.collate([DecoderInput([1, 40, 50], [-100, 50, 2])], with_labels=True)
    model(**batch).loss.backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in trained)
    assert all(p.grad.abs().sum() == 0 for p in model.adapter.parameters())


def test_the_dummy_chunk_does_not_change_the_logits(model):
    ids = torch.tensor([[1, 40, 50]])
    alone = model.language_model(input_ids=ids).logits
    assert torch.equal(model.train()(input_ids=ids).logits, alone)


def test_a_frozen_part_stays_in_evaluation_mode(model):
    model.train()
    assert (model.training, model.adapter.training) == (True, True)
    assert (model.chunk_encoder.training, model.language_model.training) == (False, False)
    lora.set_modes(model, encoder="lora")
    model.train()
    assert (model.chunk_encoder.training, model.language_model.training) == (True, False)


def test_a_decoder_of_another_embedding_width_than_its_hidden_size_gets_soft_tokens_of_its_embeddings():
    decoder = tiny_decoder("opt")
    assert decoder.get_input_embeddings().embedding_dim == 24
    model = tiny_model("bert", decoder)
    inputs = tiny_processor()(context=TEXT, prompt="Where?")
    assert model.merge(**inputs).shape[-1] == 24


def test_gradients_through_a_share_of_the_chunks_are_right_in_expectation(model, chunks):
    lora.set_modes(model, encoder="full", decoder="frozen", adapter="full")
    model.eval()  # no dropout
    model.config.encoder_batch_tokens = 64
    whole = gradients(model, chunks)
    sums = {name: torch.zeros_like(value) for name, value in whole.items()}
    for first in range(9):  # every set of three neighbours once, so that each chunk is in three of nine
        mask = torch.zeros(9, dtype=torch.bool)
        mask[[first, (first + 1) % 9, (first + 2) % 9]] = True
        model.zero_grad()
        soft_tokens = model.encode_chunks(**chunks, num_soft_tokens=2, gradient_mask=mask)
        soft_tokens.pow(3).sum().backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                sums[name] += parameter.grad
    largest = max(value.abs().max() for value in whole.values())
    for name, value in whole.items():
        torch.testing.assert_close(sums[name] / 9, value, rtol=1e-3, atol=1e-5 * largest, msg=name)


def test_a_gradient_mask_changes_no_soft_token_and_must_choose_one(model, chunks):
    model.eval()
    mask = torch.zeros(9, dtype=torch.bool)
    with pytest.raises(E2LLMError, match="chooses no chunk"):
        model.encode_chunks(**chunks, gradient_mask=mask)
    mask[4] = True
    torch.testing.assert_close(
        model.encode_chunks(**chunks, gradient_mask=mask), model.encode_chunks(**chunks), atol=2e-4, rtol=1e-3
    )


def test_a_chunk_that_stands_at_several_places_is_read_once(model, processor):
    inputs = processor(context=[TEXT[:50], TEXT[:50]], prompt=["Where?", "Who?"])
    once = dict(inputs)
    half = len(inputs["chunk_input_ids"]) // 2
    once["chunk_input_ids"] = inputs["chunk_input_ids"][:half]
    once["chunk_attention_mask"] = inputs["chunk_attention_mask"][:half]
    once["chunk_index"] = torch.tensor([*range(half), *range(half)])
    with torch.no_grad():
        torch.testing.assert_close(model(**once).logits, model(**inputs).logits, atol=1e-4, rtol=1e-4)
    assert torch.equal(model.generate(**once, max_new_tokens=4), model.generate(**inputs, max_new_tokens=4))


def test_states_computed_earlier_are_adapted_pass_by_pass_with_the_same_gradients(model, chunks):
    model.chunk_encoder.requires_grad_(False)
    model.eval()
    with torch.no_grad():
        states = model.encode_states(chunks["chunk_input_ids"], chunks["chunk_attention_mask"])
    found = []
    for tokens in (50, 10**6):
        model.config.encoder_batch_tokens = tokens
        model.zero_grad()
        model.adapt_in_passes(states, chunks["chunk_attention_mask"], 2).pow(3).sum().backward()
        found.append([p.grad.clone() for p in model.adapter.parameters() if p.grad is not None])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("mode", ["frozen", "lora"])
def test_the_heap_is_kept_small_between_passes_where_the_encoder_trains(model, chunks, monkeypatch, mode):
    model.config.encoder_batch_tokens = 64
    lora.set_modes(model, encoder=mode)
    asked = []
    monkeypatch.setattr("e2llm.modeling.composite._trim_heap", asked.append)
    soft_tokens = model.encode_chunks(**chunks, num_soft_tokens=2)
    num_passes = len(list(plan_passes(chunks["chunk_attention_mask"], 64)))
    assert len(asked) == (0 if mode == "frozen" else num_passes + 1)
    asked.clear()
    soft_tokens.sum().backward()
    assert len(asked) == (0 if mode == "frozen" else num_passes)
