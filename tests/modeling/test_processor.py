"""From contexts, prompts and answers to tensors."""

import pytest
import torch

from e2llm import E2LLMProcessor, split_text
from e2llm.errors import E2LLMError
from e2llm.modeling.checkpoints.parts import encoder_token_limit
from e2llm.modeling.decoder_input import DecoderInput
from tiny_models import (
    TEXT,
    tiny_decoder_tokenizer,
    tiny_encoder,
    tiny_encoder_tokenizer,
    tiny_processor,
)


def test_a_sample_is_laid_out_as_context_prompt_answer(processor):
    sample = processor.lay_out(["one", "two"], "Why?", "So.", num_soft_tokens=3)
    hole = processor.chunk_token_id
    template = processor.template
    start = len(template.before_context)
    assert sample.input_ids[start : start + 6] == [hole] * 6
    text = processor.tokenizer.decode([i for i in sample.input_ids if i != hole])
    assert text == "<s>Context:\nQuestion: Why?\nAnswer: So.</s>"
    assert sample.chunks == ["one", "two"]


def test_labels_are_the_answer_and_its_end_and_nothing_else(processor):
    sample = processor.lay_out(["one"], "Why?", "So.")
    labelled = [label for label in sample.labels if label != -100]
    assert processor.tokenizer.decode(labelled) == " So.</s>"
    assert sample.labels[-len(labelled) :] == sample.input_ids[-len(labelled) :]
    assert len(sample.labels) == len(sample.input_ids)
    assert set(processor.lay_out(["one"], "Why?").labels) == {-100}


def test_the_answers_of_a_history_can_be_predicted_too(processor):
    history = [("Who?", "We."), ("When?", "Now.")]
    sample = processor.lay_out(["one"], "Why?", "So.", history=history, labels_history=True)
    plain = processor.lay_out(["one"], "Why?", "So.", history=history)
    assert sample.input_ids == plain.input_ids
    labelled = [label for label in sample.labels if label != -100]
    assert processor.tokenizer.decode(labelled) == " We.</s> Now.</s> So.</s>"
    pairs = zip(sample.labels, sample.input_ids, strict=True)
    assert all(label in (-100, token) for label, token in pairs)
    last = [label for label in plain.labels if label != -100]
    assert processor.tokenizer.decode(last) == " So.</s>"


def test_an_expanded_chunk_stands_as_text_in_its_place(processor):
    sample = processor.lay_out(["one", "two", "three"], "Why?", num_soft_tokens=2, expand=[1])
    hole = processor.chunk_token_id
    start = len(processor.template.before_context)
    expected = [hole] * 2 + processor.encode("two") + [hole] * 2
    assert sample.input_ids[start : start + len(expected)] == expected
    assert sample.chunks == ["one", "three"]


@pytest.mark.parametrize("expand", [[3], [-1], [0, 9]])
def test_expanding_a_chunk_that_is_not_there_is_refused(processor, expand):
    with pytest.raises(E2LLMError, match=r"but there are only 0 to 2"):
        processor.lay_out(["one", "two", "three"], "Why?", expand=expand)


@pytest.mark.parametrize("count", [0, -1, 1.5, "2", True])
def test_less_than_one_soft_token_is_refused_and_not_a_dropped_chunk(processor, count):
    with pytest.raises(E2LLMError, match=f"must be a whole number of 1 or more, got {count!r}"):
        processor.lay_out(["one"], "Why?", num_soft_tokens=count)


def test_a_batch_is_padded_on_the_left_and_its_chunks_on_the_right(processor):
    batch = processor.collate(
        [DecoderInput([5, 6, 7], [-100, 6, 7], ["ab"]), DecoderInput([8], [8], ["abcd", "c"])],
        with_labels=True,
    )
    assert batch["input_ids"].tolist() == [[5, 6, 7], [0, 0, 8]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert batch["labels"].tolist() == [[-100, 6, 7], [-100, -100, 8]]
    assert batch["chunk_attention_mask"].tolist() == [[1, 1, 1, 1, 0, 0], [1] * 6, [1, 1, 1, 0, 0, 0]]
    assert {name: value.dtype for name, value in batch.items()} == dict.fromkeys(batch, torch.int64)


def test_a_ragged_call_equals_its_samples(processor):
    together = processor(context=[TEXT, "", "Short."], prompt=["a", "b", "c"], answer=["x", "y y", "z"])
    rows = [processor(context=c, prompt=p, answer=a) for c, p, a in ((TEXT, "a", "x"), ("", "b", "y y"))]
    for index, row in enumerate(rows):
        length = row["input_ids"].shape[1]
        for name in ("input_ids", "labels", "attention_mask"):
            assert torch.equal(together[name][index, -length:], row[name][0])
    assert "chunk_input_ids" not in rows[1]
    assert together["chunk_input_ids"].shape[0] == rows[0]["chunk_input_ids"].shape[0] + 1


def test_contexts_are_split_as_the_settings_say():
    processor = tiny_processor(chunk_size_chars=30, overlap_chars=4)
    assert processor.split(TEXT) == split_text(TEXT, 30, 4)
    assert processor.split(TEXT, 20) == split_text(TEXT, 20, 4)


def test_a_chunk_that_the_encoder_cannot_read_at_once_is_split_and_never_cut():
    processor = tiny_processor(chunk_size_chars=400)
    chunks = processor.split(TEXT * 3)
    assert "".join(chunk.text for chunk in chunks) == TEXT * 3
    ids = processor.encode_chunk_texts([chunk.text for chunk in chunks])["chunk_input_ids"]
    assert ids.shape[1] <= 64


def test_a_chunk_text_that_is_too_long_is_refused(processor):
    with pytest.raises(E2LLMError, match="a chunk has 102 encoder tokens, but the limit is 64; split it"):
        processor.encode_chunk_texts(["x " * 100])


def test_each_text_needs_its_prompt(processor):
    with pytest.raises(E2LLMError, match=r"2 prompt\(s\) but 1 context\(s\)"):
        processor(context=["one"], prompt=["a", "b"])
    with pytest.raises(E2LLMError, match="prompt= is missing"):
        processor(context="one")
    with pytest.raises(E2LLMError, match="a batch needs at least one sample"):
        processor(prompt=[])
    with pytest.raises(E2LLMError, match="return_tensors must be 'pt', got 'np'"):
        processor(prompt="a", return_tensors="np")


def test_an_answer_is_decoded_without_control_tokens(processor):
    ids = [*processor.encode(" Under the stone."), 2, 0, 0]
    assert processor.decode_answer(ids) == "Under the stone."
    assert processor.decode_answer(torch.tensor(ids)) == "Under the stone."


def test_a_tokenizer_without_padding_pads_with_its_end_and_masks_it():
    tokenizer = tiny_decoder_tokenizer()
    tokenizer.pad_token = None
    processor = tiny_processor(decoder_tokenizer=tokenizer)
    batch = processor(prompt=["a", "a longer question"], answer=["b", "c"])
    assert batch["input_ids"][0, 0] == 2
    assert batch["attention_mask"][0, 0] == 0
    assert batch["labels"][0, 0] == -100
    assert batch["labels"][0, -1] == 2


def test_a_placeholder_that_is_not_in_the_tokenizer_is_refused():
    with pytest.raises(E2LLMError, match=r"the placeholder '<hole>' is not in the decoder's tokenizer"):
        tiny_processor(chunk_token="<hole>")


def test_text_that_is_the_placeholder_whatever_is_done_is_refused():
    processor = tiny_processor(chunk_token="e")
    with pytest.raises(
        E2LLMError, match="the text becomes the placeholder 'e' when encoded; use another chunk_token"
    ):
        processor.encode("xex")


def test_tokenizers_are_needed():
    with pytest.raises(E2LLMError, match=r"give encoder= \(hub id or folder\) or encoder_tokenizer="):
        E2LLMProcessor.from_parts(decoder_tokenizer=tiny_decoder_tokenizer())


def test_the_layout_follows_the_chat_template_that_the_tokenizer_has_now(processor):
    before = processor.lay_out([], "Why?").input_ids
    processor.tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    after = processor.lay_out([], "Why?").input_ids
    assert before != after
    assert processor.tokenizer.decode(after) == "[user]\n\nWhy?"


def test_the_limit_of_a_chunk_is_that_of_the_encoder(tmp_path):
    tiny_encoder("xlm-roberta", max_position_embeddings=40).save_pretrained(tmp_path)
    tiny_encoder_tokenizer(max_tokens=64).save_pretrained(tmp_path)
    processor = E2LLMProcessor.from_parts(str(tmp_path), decoder_tokenizer=tiny_decoder_tokenizer())
    assert processor.max_chunk_tokens == 38


def test_an_encoder_without_a_stated_limit_reads_512_tokens():
    tokenizer = tiny_encoder_tokenizer()
    tokenizer.model_max_length = int(1e30)
    assert encoder_token_limit(tokenizer) == 512
    assert encoder_token_limit(tokenizer, tiny_encoder(max_position_embeddings=100).config) == 100
