"""The dial and the window: how many soft tokens per chunk fit the decoder."""

from e2llm.errors import ContextOverflowError


def fit_soft_tokens(
    *,
    window: int | None,
    num_chunks: int,
    raw_tokens: int,
    max_new_tokens: int,
    wanted: int | None,
    limit: int,
) -> int:
    """Choose K, the soft tokens per chunk.

    Args:
        window: Positions that the decoder takes; None if it states none.
        num_chunks: Chunks that are given as soft tokens.
        raw_tokens: Ordinary tokens beside them: template, question, expanded chunks.
        max_new_tokens: Positions kept for the answer.
        wanted: K if the user chose it.
        limit: The model's most.

    Returns:
        `wanted`, or else the largest K up to `limit` that fits.

    Raises:
        ContextOverflowError: If `wanted`, or one soft token per chunk, does not fit; says by how much and
            what to turn.
    """
    if window is None:
        return wanted or limit
    room = window - raw_tokens - max_new_tokens
    per_chunk = wanted or 1
    need = num_chunks * per_chunk
    if need > room:
        remedies = []
        if wanted and 1 <= room // max(1, num_chunks) < wanted:
            remedies.append(f"use {room // num_chunks} soft token(s) per chunk or fewer")
        elif num_chunks and room > 0:
            remedies.append(f"shorten the context to {room} chunks")
        remedies.append("lower max_new_tokens, shorten the question or expand fewer chunks")
        raise ContextOverflowError(
            f"{num_chunks} chunks at {per_chunk} soft token(s) each, {raw_tokens} tokens of text, question "
            f"and {max_new_tokens} new tokens need {need + raw_tokens + max_new_tokens} positions; the "
            f"decoder's window has {window}: {need - room} too many; {', or '.join(remedies)}"
        )
    return wanted or (min(limit, room // num_chunks) if num_chunks else limit)
