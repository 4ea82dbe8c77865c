"""Reading alone: against sentence-transformers, and the cost of an edit against reading again."""

import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from e2llm.bench.decoders import make_text
from e2llm.bench.timing import OnProgress, measure_in_turns, spread
from e2llm.errors import MissingExtraError
from e2llm.inference.engine import Engine
from e2llm.measuring import peak_resident_bytes
from e2llm.model_names import MINILM_ID
from e2llm.modeling.checkpoints.sources import resolve_source

_REPEATS = 5


def measure_reading(engine: Engine, num_tokens: int, on_progress: OnProgress) -> dict[str, Any]:
    """Read the same chunks by this library and by sentence-transformers, in turns; then edit single chunks.

    Both start from the chunks' texts and end with one mean-pooled vector per chunk; ours makes the soft
    tokens as well.

    Args:
        engine: Its encoder must be MiniLM, unchanged.
        num_tokens: Decoder tokens of the text.
        on_progress: Called with a line before each measurement.

    Raises:
        MissingExtraError: If sentence-transformers is not installed.
    """
    text = make_text(engine, num_tokens)
    texts = [chunk.text for chunk in engine.processor.split(text)]
    num_encoder_tokens = sum(len(row) for row in engine.processor.encode_chunk_ids(texts))
    encode = load_rival(engine)
    sides: dict[str, Callable[[], torch.Tensor]] = {
        "ours": lambda: engine.reader.read(texts, progress=False).vectors,
        "sentence_transformers": lambda: encode(texts),
    }
    vectors = {name: read() for name, read in sides.items()}  # a warm-up, too
    measured = {name: lambda read=read: {"seconds": seconds_of(read)} for name, read in sides.items()}
    found, _ = measure_in_turns(measured, _REPEATS, on_progress)
    times = {name: [item["seconds"] for item in items] for name, items in found.items()}
    ours, theirs = (statistics.median(times[name]) for name in sides)
    return {
        "context_tokens": engine.count_tokens(text),
        "chunks": len(texts),
        "encoder_tokens": num_encoder_tokens,
        "ours_s": ours,
        "sentence_transformers_s": theirs,
        "speedup": theirs / ours,
        "ours_tokens_per_s": num_encoder_tokens / ours,
        "max_difference": (vectors["ours"] - vectors["sentence_transformers"]).abs().max().item(),
        "spread": {name: spread(values) for name, values in times.items()},
        **measure_edits(engine, text),
        "peak_bytes": peak_resident_bytes(),
    }


def seconds_of(action: Callable[[], Any]) -> float:
    """Return the time that an action takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


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
        options = {"batch_size": 32, "convert_to_tensor": True, "show_progress_bar": False}
        found: torch.Tensor = rival.encode(texts, **options)
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
