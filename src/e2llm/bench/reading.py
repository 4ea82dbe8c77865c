"""Reading alone: against sentence-transformers, and the cost of an edit against reading again."""

import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from e2llm.bench.decoders import make_text, text_of_length
from e2llm.errors import MissingExtraError
from e2llm.inference.engine import Engine
from e2llm.measuring import peak_resident_bytes
from e2llm.modeling.checkpoints.sources import MINILM_ID, resolve_source


def measure_reading(
    engine: Engine,
    num_tokens: int,
    text: str | None = None,
    repeats: int = 5,
    on_progress: Callable[[str], Any] = lambda _: None,
) -> dict[str, Any]:
    """Read the same chunks by this library and by sentence-transformers, in turns; then edit single chunks.

    Both start from the chunks' texts and end with one mean-pooled vector per chunk; ours makes the soft
    tokens as well.

    Args:
        engine: Its encoder must be MiniLM, unchanged.
        num_tokens: Decoder tokens of the text.
        text: Instead of one made up; repeated and cut to the number of tokens.
        repeats: Of each side, after one to warm up.
        on_progress: Called with a line before each measurement.

    Raises:
        MissingExtraError: If sentence-transformers is not installed.
    """
    text = text_of_length(engine, num_tokens, text)
    texts = [chunk.text for chunk in engine.processor.split(text)]
    num_tokens = sum(len(row) for row in engine.processor.encode_chunk_ids(texts))
    encode = load_rival(engine)
    vectors: dict[str, torch.Tensor] = {}
    sides: dict[str, Callable[[], torch.Tensor]] = {
        "ours": lambda: engine.reader.read(texts, progress=False).vectors,
        "sentence_transformers": lambda: encode(texts),
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(repeats + 1):
        for name, run in sides.items():
            on_progress(f"{name}, {number} of {repeats}")
            started = time.perf_counter()
            vectors[name] = run()
            if number:
                times[name].append(time.perf_counter() - started)
    ours, theirs = (statistics.median(times[name]) for name in sides)
    return {
        "context_tokens": engine.count_tokens(text),
        "chunks": len(texts),
        "encoder_tokens": num_tokens,
        "ours_s": ours,
        "sentence_transformers_s": theirs,
        "speedup": theirs / ours,
        "ours_tokens_per_s": num_tokens / ours,
        "max_difference": (vectors["ours"] - vectors["sentence_transformers"]).abs().max().item(),
        "spread": {name: [min(values), max(values)] for name, values in times.items()},
        **measure_edits(engine, text),
        "peak_bytes": peak_resident_bytes(),
    }


def load_rival(engine: Engine) -> Callable[[list[str]], torch.Tensor]:
    """Return sentence-transformers' way from texts to mean-pooled vectors, with the same encoder."""
    try:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.models import Pooling, Transformer
    except ImportError as error:
        raise MissingExtraError("sentence-transformers", "bench") from error
    words = Transformer(resolve_source(MINILM_ID), max_seq_length=engine.processor.max_chunk_tokens)
    pooling = Pooling(words.get_word_embedding_dimension(), pooling_mode="mean")
    rival = SentenceTransformer(modules=[words, pooling], device=str(engine.device))

    def encode(texts: list[str]) -> torch.Tensor:
        found: torch.Tensor = rival.encode(
            texts, batch_size=32, convert_to_tensor=True, show_progress_bar=False
        )
        return found.float().cpu()

    return encode


def measure_edits(engine: Engine, text: str, num_edits: int = 21) -> dict[str, Any]:
    """Replace single chunks of a context, one after the other, against the time of reading it."""
    started = time.perf_counter()
    context = engine.read(text, progress=False)
    read = time.perf_counter() - started
    rng = random.Random(0)
    seconds, encoded = [], []
    for number in range(num_edits):
        new = make_text(engine, 90, seed=1000 + number) + " "
        index = rng.randrange(len(context))
        started = time.perf_counter()
        encoded.append(context.replace(index, new))
        seconds.append(time.perf_counter() - started)
    median = statistics.median(seconds)
    return {"read_s": read, "edit_s": median, "edit_fraction": median / read, "edit_chunks": max(encoded)}
