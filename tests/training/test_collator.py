import pickle

import pytest
import torch

from e2llm.modeling.decoder_input import DecoderInput
from e2llm.modeling.processor import E2LLMProcessor
from e2llm.training.samples.collator import Sample, SampleCollator

LONG = Sample(DecoderInput([5, 6, 7, 8], [-100, -100, 7, 8], ["ab"]), objective=1)
SHORT = Sample(DecoderInput([9, 5], [-100, 5], ["abc", "d"]), objective=0)


@pytest.fixture
def processor(encoder, decoder):
    return E2LLMProcessor.from_parts(encoder, decoder)


def test_samples_are_padded_on_the_left_and_chunks_lie_flat(processor):
    batch = SampleCollator(processor)([LONG, SHORT])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8], [0, 0, 9, 5]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [0, 0, 1, 1]]
    assert batch["labels"].tolist() == [[-100, -100, 7, 8], [-100, -100, -100, 5]]
    assert batch["objectives"].tolist() == [[1] * 4, [0] * 4]
    first, rest = ord("a") - 33 + 4, [ord(letter) - 33 + 4 + 94 for letter in "bc"]
    assert batch["chunk_input_ids"].tolist() == [
        [2, first, rest[0], 3, 0],
        [2, first, *rest, 3],
        [2, first + 3, 3, 0, 0],
    ]
    assert batch["chunk_attention_mask"].sum(dim=1).tolist() == [4, 5, 3]


def test_a_chunk_that_stands_twice_is_there_once(processor):
    again = Sample(DecoderInput([9, 5], [-100, 5], ["d", "ab"]), objective=1)
    batch = SampleCollator(processor)([LONG, SHORT, again])
    assert len(batch["chunk_input_ids"]) == 3
    assert batch["chunk_index"].tolist() == [0, 1, 2, 2, 0]
    assert "chunk_index" not in SampleCollator(processor)([LONG, SHORT])


def test_samples_are_packed_into_rows_no_longer_than_the_longest(processor):
    words = Sample(DecoderInput([4, 4], [4, 4]), objective=1)
    batch = SampleCollator(processor, packs=True)([words, LONG, SHORT, SHORT])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8], [4, 4, 9, 5], [9, 5, 0, 0]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3], [0, 1, 0, 1], [0, 1, 0, 1]]
    assert batch["labels"].tolist() == [[-100, -100, 7, 8], [-100, 4, -100, 5], [-100, 5, -100, -100]]
    assert batch["objectives"].tolist()[1] == [1, 1, 0, 0]
    assert batch["chunk_index"].tolist() == [0, 1, 2, 1, 2]  # in the order of the rows
    assert "attention_mask" not in batch


def test_a_batch_without_chunks_has_no_chunk_tensors(processor):
    batch = SampleCollator(processor)([Sample(DecoderInput([5], [5]), objective=0)])
    assert set(batch) == {"input_ids", "attention_mask", "labels", "objectives"}


def test_a_copy_for_a_worker_process_makes_the_same_batch(processor):
    copy = pickle.loads(pickle.dumps(SampleCollator(processor)))  # noqa: S301
    assert torch.equal(copy([LONG])["labels"], SampleCollator(processor)([LONG])["labels"])


def test_rows_are_never_filled_with_the_placeholder(processor):
    processor.tokenizer.pad_token = processor.chunk_token
    batch = SampleCollator(processor, packs=True)([LONG, SHORT])
    placeholder = processor.tokenizer.convert_tokens_to_ids(processor.chunk_token)
    assert placeholder not in batch["input_ids"][1, 2:].tolist()
