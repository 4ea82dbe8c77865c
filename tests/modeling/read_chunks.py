"""Soft tokens of chunks and their gradients, written out."""

import torch

from tiny_models import TEXT

TWO_ANSWERS = {
    "context": [TEXT, TEXT[:50]],
    "prompt": ["Where?", "Who is it?"],
    "answer": ["There.", "Mira, again."],
}


def gradients(model, chunks, num_soft_tokens=2):
    model.zero_grad()
    model.encode_chunks(**chunks, num_soft_tokens=num_soft_tokens).pow(3).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def plain_soft_tokens(model, chunks, num_soft_tokens=2):
    """Each chunk alone, without padding, sorting or checkpointing."""
    rows = []
    for ids, mask in zip(chunks["chunk_input_ids"], chunks["chunk_attention_mask"], strict=True):
        one, real = ids[mask.bool()][None], mask[mask.bool()][None]
        rows.append(model.keep(model.encode_states(one, real), real, num_soft_tokens))
    return torch.cat(rows)
