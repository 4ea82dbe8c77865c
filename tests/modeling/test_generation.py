"""`generate` behaves as any transformers model's, with soft tokens in the prompt."""

from threading import Thread

import pytest
import torch
from transformers import TextIteratorStreamer

from e2llm.errors import E2LLMError
from e2llm.modeling import lora
from e2llm.modeling.decoder_input import DecoderInput
from tiny_models import (
    TEXT,
    tiny_decoder,
    tiny_decoder_tokenizer,
    tiny_encoder,
    tiny_model,
    tiny_processor,
)

CONTEXTS = [TEXT, TEXT[:60], None]
PROMPTS = ["Where is the key?", "How many boats?", "Who?"]
GREEDY = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}


def with_random_lora(model):
    lora.set_modes(model, encoder="lora", decoder="lora")
    torch.manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def new_tokens(model, inputs, **options):
    with torch.no_grad():
        ids = model.generate(**inputs, **{**GREEDY, **options})
    return ids[:, inputs["input_ids"].shape[1] :]


def test_greedy_generation_takes_the_best_token_of_a_full_forward_pass_each_time(model, processor):
    inputs = processor(context=TEXT, prompt=PROMPTS[0])
    generated = new_tokens(model, inputs)[0]
    ids = inputs["input_ids"]
    for token in generated:
        logits = model(**{**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}).logits[0, -1]
        logits[model.config.chunk_token_id] = -torch.inf
        assert logits.argmax() == token
        ids = torch.cat([ids, token.view(1, 1)], dim=1)


def test_soft_tokens_change_the_answer(model, processor):
    first = processor(context=TEXT[:40], prompt=PROMPTS[0])
    second = processor(context=TEXT[50:90], prompt=PROMPTS[0])
    assert torch.equal(first["input_ids"], second["input_ids"])
    assert not torch.equal(model(**first).logits, model(**second).logits)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"repetition_penalty": 1.5}, {"use_cache": False}])
def test_a_ragged_batch_generates_what_its_samples_generate_alone(model, processor, options):
    together = new_tokens(model, processor(context=CONTEXTS, prompt=PROMPTS), **options)
    for row, (context, prompt) in enumerate(zip(CONTEXTS, PROMPTS, strict=True)):
        alone = new_tokens(model, processor(context=context, prompt=prompt), **options)
        assert torch.equal(together[row], alone[0])


def test_generation_without_a_cache_reads_the_soft_tokens_at_every_step(model, inputs):
    assert torch.equal(new_tokens(model, inputs, use_cache=False), new_tokens(model, inputs))


def test_a_static_cache_gives_the_same_answer(model, inputs):
    assert torch.equal(new_tokens(model, inputs, cache_implementation="static"), new_tokens(model, inputs))


def test_each_return_sequence_reads_its_own_samples_chunks(model, processor):
    inputs = processor(context=CONTEXTS, prompt=PROMPTS)
    options = {"num_beams": 4, "num_return_sequences": 3}
    together = new_tokens(model, inputs, **options).view(3, 3, -1)
    for row, (context, prompt) in enumerate(zip(CONTEXTS, PROMPTS, strict=True)):
        alone = new_tokens(model, processor(context=context, prompt=prompt), **options)
        assert torch.equal(together[row], alone)


def test_sampling_repeats_under_a_seed_and_gives_several_sequences(model, inputs):
    options = {"do_sample": True, "num_return_sequences": 3, "temperature": 1.5}
    torch.manual_seed(7)
    first = new_tokens(model, inputs, **options)
    torch.manual_seed(7)
    assert torch.equal(new_tokens(model, inputs, **options), first)
    assert first.shape == (6, 6)
    assert len({tuple(row) for row in first.tolist()}) > 2


def test_the_placeholder_is_never_generated(model, inputs):
    with torch.no_grad():
        model.language_model.lm_head.weight[model.config.chunk_token_id] = 100 * torch.ones(32)
        model.language_model.lm_head.weight[5] = -100 * torch.ones(32)
    assert model.config.chunk_token_id not in new_tokens(model, inputs, max_new_tokens=12)


@pytest.mark.parametrize("num_soft_tokens", [1, 2, 4])
def test_stored_soft_tokens_generate_what_fresh_ones_do(model, processor, num_soft_tokens):
    inputs = processor(context=CONTEXTS, prompt=PROMPTS, num_soft_tokens=num_soft_tokens)
    chunks = {name: inputs[name] for name in ("chunk_input_ids", "chunk_attention_mask")}
    fresh = new_tokens(model, inputs)
    decoder_side = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        soft_tokens = model.encode_chunks(**chunks)
    assert soft_tokens.shape[1] == 4
    stored = {"chunk_embeds": soft_tokens[:, :num_soft_tokens].flatten(0, 1)}
    assert torch.equal(new_tokens(model, {**decoder_side, **stored}), fresh)


def test_lora_attached_generates_what_merged_lora_does(model, inputs):
    before = new_tokens(model, inputs)
    with_random_lora(model)
    attached = new_tokens(model, inputs)
    assert not torch.equal(attached, before)
    assert torch.equal(new_tokens(lora.merge_lora(model), inputs), attached)


def test_generation_through_a_peft_wrapper_reads_the_chunks(model, inputs):
    peft = pytest.importorskip("peft")
    expected = new_tokens(model, inputs, num_beams=2, num_return_sequences=2)
    targets = r"(language_model\..*\.q_proj|chunk_encoder\..*\.query)"
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=targets))
    assert torch.equal(new_tokens(wrapped, inputs, num_beams=2, num_return_sequences=2), expected)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    assert not torch.equal(new_tokens(wrapped, inputs, num_beams=2, num_return_sequences=2), expected)


def test_a_streamer_receives_the_answer_piece_by_piece(model, processor):
    inputs = processor(context=TEXT, prompt=PROMPTS[0])
    expected = processor.tokenizer.decode(new_tokens(model, inputs)[0], skip_special_tokens=True)
    streamer = TextIteratorStreamer(
        processor.tokenizer, skip_prompt=True, skip_special_tokens=True, timeout=60
    )
    worker = Thread(target=model.generate, kwargs={**inputs, **GREEDY, "streamer": streamer})
    worker.start()
    assert "".join(streamer) == expected
    worker.join()


def test_generation_runs_in_evaluation_mode_and_restores_training_mode(inputs):
    model = tiny_model()
    lora.set_modes(model, decoder="lora", decoder_lora=lora.LoraSettings(dropout=0.9))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    expected = new_tokens(model.eval(), inputs)
    model.train()
    assert torch.equal(new_tokens(model, inputs), expected)
    assert model.training
    assert model.language_model.training
    assert not model.chunk_encoder.training


def test_generation_under_gradient_checkpointing_in_training_mode_reads_the_soft_tokens(model, inputs):
    expected = new_tokens(model, inputs)
    lora.set_modes(model, decoder="full")
    model.gradient_checkpointing_enable()
    model.train()
    assert torch.equal(new_tokens(model, inputs), expected)


def test_generation_ends_at_the_answers_end_of_the_chat_template(processor):
    template = "{% for m in messages %}<|im|>{{ m.content }}<|end|>\n{% endfor %}"
    tokenizer = tiny_decoder_tokenizer(template)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|im|>", "<|end|>"]})
    model = tiny_model(decoder_tokenizer=tokenizer)
    assert model.generation_config.eos_token_id == [2, tokenizer.convert_tokens_to_ids("<|end|>")]
    assert tiny_model().generation_config.eos_token_id == 2


def test_generation_takes_no_argument_that_would_lose_soft_tokens(model, inputs):
    with pytest.raises(E2LLMError, match="prefill_chunk_size does not work with soft tokens"):
        model.generate(**inputs, prefill_chunk_size=4)
    model.generation_config.prefill_chunk_size = 4
    with pytest.raises(E2LLMError, match="prefill_chunk_size"):
        model.generate(**inputs)
    model.generation_config.prefill_chunk_size = None
    with pytest.raises(E2LLMError, match="prompt_lookup_num_tokens"):
        model.generate(**inputs, prompt_lookup_num_tokens=2)
    with pytest.raises(E2LLMError, match="assistant_early_exit"):
        model.generate(**inputs, assistant_early_exit=1)
    with pytest.raises(E2LLMError, match="assistant_model"):
        model.generate(**inputs, assistant_model=model.language_model)
    with pytest.raises(E2LLMError, match=r"unknown argument.*chunk_ids; known: chunk_input_ids"):
        model.generate(**inputs, chunk_ids=inputs["chunk_input_ids"])
    with pytest.raises(E2LLMError, match="inputs_embeds replace input_ids and chunks"):
        model.generate(**inputs, inputs_embeds=model.merge(**inputs))


def test_a_decoder_without_a_padding_token_fills_finished_rows_with_its_end(processor, inputs, caplog):
    model = tiny_model("bert", tiny_decoder(pad_token_id=None))
    generated = new_tokens(model, inputs, eos_token_id=[2, *range(3, 150)], max_new_tokens=12)
    finished = [row for row in generated.tolist() if row[-1] == 2 and len(row) > 1]
    assert finished
    assert "pad_token_id" not in caplog.text


@pytest.mark.parametrize("dtypes", [(torch.bfloat16, torch.bfloat16), (torch.float32, torch.bfloat16)])
def test_parts_in_bfloat16_train_and_generate(processor, dtypes):
    encoder, decoder = tiny_encoder().to(dtypes[0]), tiny_decoder().to(dtypes[1])
    model = tiny_model(encoder, decoder)
    batch = processor(context=CONTEXTS, prompt=PROMPTS, answer=["a", "b", "c"])
    model.train()
    model(**batch).loss.backward()
    assert torch.isfinite(model.adapter.queries.grad).all()
    model.adapter.float()  # as training does, so that small steps are not rounded away
    model(**batch).loss.backward()
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    assert new_tokens(model, inputs).shape == (3, 6)


def test_a_decoder_input_without_context_generates_as_the_decoder_alone(model, processor):
    inputs = processor.collate([DecoderInput([1, 40, 50, 60], [-100] * 4)])
    alone = model.language_model.generate(**inputs, **GREEDY)
    assert torch.equal(model.generate(**inputs, **GREEDY), alone)


def test_a_wider_batch_of_chunks_than_one_pass_generates_the_same(model):
    processor = tiny_processor(chunk_size_chars=20)
    inputs = processor(context=TEXT, prompt=PROMPTS[0])
    expected = new_tokens(model, inputs)
    model.config.encoder_batch_tokens = 30
    assert torch.equal(new_tokens(model, inputs), expected)
