"""Whether documents can fit the decoder's window at all, told before they are read."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from e2llm.inference.content import Splitting, chunk_texts
from e2llm.inference.documents import Document
from e2llm.inference.planning import make_plan
from e2llm.inference.request import Request

if TYPE_CHECKING:
    from e2llm.inference.engine import Engine


def check_room(
    engine: "Engine",
    documents: Sequence[Document],
    request: Request,
    chunk_size_chars: int | None = None,
) -> None:
    """Refuse documents whose chunks cannot fit the window, whatever the encoder makes of them.

    Splitting is quick and reading is not. What passes here may still be refused by `Engine.ask`: a chunk that
    is given as text counts as one position, the least that it can take.

    Args:
        engine: What is to answer.
        documents: What is to be read.
        request: The question and how the context is to be laid out.
        chunk_size_chars: See `Engine.read`.

    Raises:
        ContextOverflowError: As `Engine.ask` does.
        E2LLMError: If the soft tokens, the rate or the chunk size are out of range.
    """
    engine.dial.check(request.soft_tokens, request.rate)
    window = engine.window if request.window is None else request.window
    if window is None or request.overflow == "select" or not engine.model.is_trained:
        return
    splitting = Splitting.of(engine.processor, chunk_size_chars)
    texts = [text for item in documents for text in chunk_texts(item, splitting, engine.processor)]
    is_wanted = request.soft_tokens is not None or request.rate is not None
    lengths = [1] * len(texts)  # by the default at least one soft token each
    if request.rate is not None:
        lengths = [len(row) for row in engine.processor.encode_chunk_ids(texts)]
    levels = engine.dial.levels(lengths, request.soft_tokens, request.rate)
    longest_first = sorted(range(len(texts)), key=lambda index: -levels[0].counts[index])
    make_plan(
        [1] * len(texts),
        levels,
        overhead=engine.count_positions(request.question, request.history),
        expand=longest_first[: _most_raw(request, len(texts))] if is_wanted else (),
        window=window,
        max_new_tokens=request.max_new_tokens,
        is_wanted=is_wanted,
        overflow="error",
        rank=list,
    )


def _most_raw(request: Request, num_chunks: int) -> int:
    """The most chunks that the request may give as text."""
    if request.expand_tokens is not None or request.raw_below is not None:
        return num_chunks
    count = request.expand if isinstance(request.expand, int) else len(request.expand)
    return min(count, num_chunks)
