"""Let a causal encoder attend only to earlier tokens, or to all tokens of a chunk.

Embedding models such as Qwen3-Embedding or E5-Mistral are decoders without a head. transformers can run them
with attention in both directions: `is_causal=False` in a call makes its masks and its attention kernels
bidirectional, with a sliding window to both sides where the model has one. Padding stays masked.
"""

import inspect
from typing import Any

import torch

from e2llm.errors import E2LLMError


def prepare_encoder(encoder: Any, bidirectional: bool) -> None:
    """Set an encoder's configuration for calls with `encoder_options`.

    transformers sets `config.is_causal` during each call and restores it afterwards. Two threads in one
    encoder would undo each other's setting; if the value is the same before, no call changes anything.
    """
    if bidirectional:
        encoder.config.is_causal = False


def encoder_options(encoder: Any, bidirectional: bool) -> dict[str, bool]:
    """Return the arguments for each call of an encoder, in addition to ids and mask.

    Args:
        encoder: A text encoder, or a decoder without its head.
        bidirectional: Let every token see all tokens of its chunk. False leaves the encoder as it is: causal
            if it is a decoder, bidirectional if it is of BERT's kind.
    """
    takes = inspect.signature(encoder.forward).parameters
    options = {"use_cache": False} if "use_cache" in takes else {}
    return {**options, "is_causal": False} if bidirectional else options


def sees_later_tokens(encoder: Any, bidirectional: bool) -> bool:
    """Return whether a later token changes an earlier state; read chunks that differ in the last token."""
    device = encoder.get_input_embeddings().weight.device
    chunks = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 5]], device=device)
    options = encoder_options(encoder, bidirectional)
    was_training = encoder.training
    encoder.eval()
    try:
        with torch.no_grad():  # one by one, because rows of one batch may be rounded differently
            first, second = (
                encoder(input_ids=row[None], attention_mask=torch.ones_like(row[None]), **options)
                for row in chunks
            )
    finally:
        encoder.train(was_training)
    return not torch.equal(first.last_hidden_state[0, 0], second.last_hidden_state[0, 0])


def check_bidirectional(encoder: Any) -> None:
    """Raise `E2LLMError` unless bidirectional attention is possible for an encoder and changes something."""
    kind = encoder.config.model_type
    if sees_later_tokens(encoder, False):
        raise E2LLMError(
            f"the encoder ({kind}) is bidirectional already; 'bidirectional' is for causal encoders, leave "
            "its attention 'as_trained'"
        )
    subject = f"the encoder ({kind}) cannot be run bidirectionally"
    try:
        sees = sees_later_tokens(encoder, True)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise E2LLMError(
            f"{subject}: it does not take is_causal=False ({error}); leave its attention as it is"
        ) from error
    if not sees:
        raise E2LLMError(f"{subject}: its tokens do not see later ones; leave its attention as it is")
