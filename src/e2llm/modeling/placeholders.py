"""Find placeholders in the decoder's input, and assign them to chunks and positions.

Shapes: B samples, P places at which chunks are, L decoder tokens.
"""

import re
from typing import Any, NamedTuple

import torch

from e2llm.errors import E2LLMError

# Decoders whose attention keeps packed samples apart; others read across them (OPT) or were not tried.
PACKING_DECODERS = frozenset(
    ["llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text", "phi3", "gpt2", "gpt_neox", "smollm3"]
)
CHUNK_ARGUMENTS = (
    "chunk_input_ids",
    "chunk_attention_mask",
    "chunk_embeds",
    "chunk_index",
    "chunk_num_soft_tokens",
)


def find_placeholders(
    input_ids: torch.Tensor, attention_mask: torch.Tensor | None, chunk_token_id: int
) -> torch.Tensor:
    """Return the placeholders that the attention mask does not hide.

    Args:
        input_ids: `[B, L]` decoder token ids.
        attention_mask: `[B, P + L]`, nonzero for real tokens, those in a cache first; or None.
        chunk_token_id: The placeholder's id.

    Returns:
        `[B, L]` bool.
    """
    found = input_ids == chunk_token_id
    if attention_mask is None or attention_mask.dim() != 2:
        return found
    return found & attention_mask[:, -input_ids.shape[1] :].bool()


def soft_tokens_of_places(
    is_placeholder: torch.Tensor, num_places: int, given: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the number of placeholders of each chunk.

    Args:
        is_placeholder: `[B, L]` bool.
        num_places: P, the places at which chunks are.
        given: `[P]`, the numbers where they are known; by default all are equal.

    Returns:
        `[P]` int64.

    Raises:
        E2LLMError: If the placeholders do not divide among the chunks without crossing from sample to sample.
    """
    counts = is_placeholder.sum(dim=1)
    total = int(counts.sum())
    if num_places == 0:
        if total:
            raise E2LLMError(
                f"the input has {total} placeholders but no chunks; pass the chunks that the processor makes"
            )
        return counts.new_zeros(0)
    if given is not None:
        given = given.to(counts.device).long()
        if given.shape != (num_places,) or bool((given < 1).any()) or int(given.sum()) != total:
            raise E2LLMError(
                f"the input has {total} placeholders, but chunk_num_soft_tokens counts {int(given.sum())} "
                f"for {len(given)} chunks, of which there are {num_places}"
            )
        if not bool(torch.isin(counts.cumsum(0)[counts > 0], given.cumsum(0)).all()):
            raise E2LLMError("chunk_num_soft_tokens spreads the placeholders of a chunk over two samples")
        return given
    per_chunk, rest = divmod(total, num_places)
    if rest or not per_chunk:
        raise E2LLMError(
            f"{total} placeholders cannot be divided equally among {num_places} chunks; give "
            "chunk_num_soft_tokens"
        )
    crossed = (counts % per_chunk).nonzero().flatten().tolist()
    if crossed:
        raise E2LLMError(
            f"sample {crossed[0]} has {int(counts[crossed[0]])} placeholders, not a multiple of the "
            f"{per_chunk} soft tokens per chunk of this batch; give chunk_num_soft_tokens where chunks "
            "differ"
        )
    return counts.new_full((num_places,), per_chunk)


def reject_unknown_chunk_arguments(kwargs: dict[str, Any]) -> None:
    """Raise `E2LLMError` for unknown arguments named `chunk...`."""
    unknown = [name for name in kwargs if name.startswith("chunk")]
    if unknown:
        raise E2LLMError(f"unknown argument(s) {', '.join(unknown)}; known: {', '.join(CHUNK_ARGUMENTS)}")


def positions_of(attention_mask: torch.Tensor, num_new: int) -> torch.Tensor:
    """Return position ids of the last tokens of left-padded rows, without counting padding.

    Args:
        attention_mask: `[B, P + L]`, nonzero for real tokens, those in a cache first.
        num_new: L, the tokens to give positions to.

    Returns:
        `[B, L]` int64.
    """
    return (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)[:, -num_new:]


def check_packing(
    position_ids: torch.Tensor, attention_mask: Any, use_cache: Any, decoder: str, attention: str = "sdpa"
) -> None:
    """Raise `E2LLMError` if packed samples would attend to each other.

    Samples that follow each other in one row, with positions that start again at 0, are kept apart by
    transformers only without an attention mask and without a cache, not by every decoder, and by flash
    attention in a single row only.
    """
    if not (position_ids[..., 1:] < position_ids[..., :-1]).any():
        return
    if "flash" in (attention or "") and len(position_ids) > 1:
        raise E2LLMError(
            f"packed samples in {len(position_ids)} rows would attend to each other under {attention}; pack "
            "into one row, or load the decoder with attn_implementation='sdpa'"
        )
    if decoder not in PACKING_DECODERS:
        raise E2LLMError(
            f"packed samples (position_ids that start again) would attend to each other in a {decoder!r} "
            f"decoder; give each sample its own row, or use one of {', '.join(sorted(PACKING_DECODERS))}"
        )
    if attention_mask is not None or use_cache:
        raise E2LLMError(
            "position_ids start again within a row (packed samples); give attention_mask=None and "
            "use_cache=False, or the samples attend to each other"
        )


CHUNK_TOKEN = "<|chunk|>"

_SPARE_TOKEN = re.compile(r"<\|?(reserved|unused|placeholder|extra)[\w\-]*\|?>|\[unused\d+\]", re.IGNORECASE)


class Placeholder(NamedTuple):
    """A token and its id in the decoder's tokenizer."""

    token: str
    id: int


def choose_placeholder(tokenizer: Any) -> Placeholder:
    """Choose the placeholder in a decoder's tokenizer, the same one every time.

    In this order: the token `<|chunk|>` if the tokenizer has it; a special token that the decoder's authors
    left spare (`<|reserved_special_token_0|>`, `<unused0>`, `<|placeholder1|>`, ...) and that pads, begins
    or ends nothing; else `<|chunk|>`, added
    to the tokenizer. An added id may lie in rows that the decoder's embedding has to spare; if it does not,
    one row is added.
    """
    vocabulary = tokenizer.get_vocab()
    if CHUNK_TOKEN in vocabulary:
        return Placeholder(CHUNK_TOKEN, vocabulary[CHUNK_TOKEN])
    specials = {
        token.content: index for index, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    taken = {tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id}
    spare = sorted(
        (index, token)
        for token, index in specials.items()
        if _SPARE_TOKEN.fullmatch(token) and index not in taken
    )
    if spare:
        index, token = spare[0]
        return Placeholder(token, index)
    tokenizer.add_special_tokens({"extra_special_tokens": [CHUNK_TOKEN]}, replace_extra_special_tokens=False)
    return Placeholder(CHUNK_TOKEN, tokenizer.convert_tokens_to_ids(CHUNK_TOKEN))
