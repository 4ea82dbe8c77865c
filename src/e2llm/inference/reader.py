"""Reading: chunks sorted by length, encoded in batches by a token budget, in memory constant per batch."""

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from tqdm import tqdm

from e2llm.modeling.model import E2LLMForConditionalGeneration
from e2llm.modeling.processor import E2LLMProcessor


@torch.no_grad()
def encode_texts(
    model: E2LLMForConditionalGeneration,
    processor: E2LLMProcessor,
    texts: Sequence[str],
    *,
    progress: bool | None = None,
    lock: AbstractContextManager[object] | None = None,
) -> torch.Tensor:
    """Make the soft tokens of chunk texts.

    Args:
        model: In evaluation mode.
        processor: Its tokenizer reads the texts.
        texts: C chunk texts that fit the encoder.
        progress: Show a bar; by default on a terminal when there is much to read.
        lock: Held while the tokenizer works, for a processor that several threads share.

    Returns:
        `[C, K, D]` soft tokens on the CPU, K the most that the model makes.
    """
    embeddings: Any = model.get_input_embeddings()
    shape = (len(texts), model.config.max_soft_tokens, embeddings.embedding_dim)
    soft_tokens = torch.empty(shape, dtype=embeddings.weight.dtype)
    device = next(model.chunk_encoder.parameters()).device
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]), reverse=True)
    # Tokenizing a few passes' worth at a time keeps memory constant however long the context is.
    group = max(1, 4 * model.config.encoder_batch_tokens // processor.max_chunk_tokens) * 4
    show = progress if progress is not None else sys.stderr.isatty() and len(texts) > 2 * group
    with tqdm(total=len(texts), unit="chunk", desc="reading", disable=not show, leave=False) as bar:
        for start in range(0, len(order), group):
            rows = order[start : start + group]
            with lock or nullcontext():
                inputs = processor.encode_chunk_texts([texts[row] for row in rows])
            encoded = model.encode_chunks(
                inputs["chunk_input_ids"].to(device), inputs["chunk_attention_mask"].to(device)
            )
            soft_tokens[rows] = encoded.to("cpu", soft_tokens.dtype)
            bar.update(len(rows))
    return soft_tokens
