import pickle

import pytest
import torch

from e2llm.modeling.processor import DecoderInput, E2LLMProcessor
from e2llm.training.collator import SampleCollator
from e2llm.training.samples import Sample

LONG = Sample(DecoderInput([5, 6, 7, 8], [-100, -100, 7, 8], ["ab"]), objective=2)
SHORT = Sample(DecoderInput([9, 5], [-100, 5], ["abc", "d"]), objective=1)


@pytest.fixture
def processor(encoder, decoder):
    return E2LLMProcessor.from_parts(encoder, decoder)


def test_samples_are_padded_on_the_left_and_chunks_lie_flat(processor):
    batch = SampleCollator(processor)([LONG, SHORT])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8], [0, 0, 9, 5]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [0, 0, 1, 1]]
    assert batch["labels"].tolist() == [[-100, -100, 7, 8], [-100, -100, -100, 5]]
    assert batch["objectives"].tolist() == [2, 1]
    first, rest = ord("a") - 33 + 4, [ord(letter) - 33 + 4 + 94 for letter in "bc"]
    assert batch["chunk_input_ids"].tolist() == [
        [2, first, rest[0], 3, 0],
        [2, first, *rest, 3],
        [2, first + 3, 3, 0, 0],
    ]
    assert batch["chunk_attention_mask"].sum(dim=1).tolist() == [4, 5, 3]


def test_texts_are_handed_on_where_encoder_states_are_kept(processor):
    batch = SampleCollator(processor, keep_texts=True)([LONG, SHORT])
    assert batch["chunk_texts"] == ["ab", "abc", "d"]
    assert "chunk_input_ids" not in batch


def test_a_batch_without_chunks_has_no_chunk_tensors(processor):
    batch = SampleCollator(processor)([Sample(DecoderInput([5], [5]), objective=0)])
    assert set(batch) == {"input_ids", "attention_mask", "labels", "objectives"}


def test_a_copy_for_a_worker_process_makes_the_same_batch(processor):
    copy = pickle.loads(pickle.dumps(SampleCollator(processor)))  # noqa: S301
    assert torch.equal(copy([LONG])["labels"], SampleCollator(processor)([LONG])["labels"])
