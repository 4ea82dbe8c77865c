"""Models on bases that lie on the disk."""

import pytest
import torch

from e2llm import E2LLMForConditionalGeneration
from tiny_models import (
    tiny_decoder,
    tiny_decoder_tokenizer,
    tiny_encoder,
    tiny_encoder_tokenizer,
)


@pytest.fixture
def bases(tmp_path):
    """Folders of an encoder and a decoder, as a user has them on the disk."""
    tiny_encoder().save_pretrained(tmp_path / "encoder")
    tiny_encoder_tokenizer().save_pretrained(tmp_path / "encoder")
    tiny_decoder().save_pretrained(tmp_path / "decoder")
    tiny_decoder_tokenizer().save_pretrained(tmp_path / "decoder")
    return tmp_path / "encoder", tmp_path / "decoder"


@pytest.fixture
def on_bases(bases):
    torch.manual_seed(3)
    return E2LLMForConditionalGeneration.from_parts(*bases, adapter="attention", max_soft_tokens=4)


@pytest.fixture
def chunks():
    """Nine chunks of 3 to 40 tokens, in no order."""
    torch.manual_seed(4)
    lengths = torch.tensor([7, 40, 3, 12, 40, 5, 30, 3, 21])
    ids = torch.randint(5, 100, (9, 40))
    return {"chunk_input_ids": ids, "chunk_attention_mask": (torch.arange(40) < lengths[:, None]).long()}
