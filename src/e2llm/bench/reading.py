"""Reading alone: against sentence-transformers, by length of context, and after an edit."""

import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from e2llm.bench.decoders import QUESTION, make_text, text_of_length
from e2llm.bench.rates import gemm_rate, reading_operations
from e2llm.errors import E2LLMError, MissingExtraError
from e2llm.inference.engine import Engine
from e2llm.modeling.parts import MINILM_ID, resolve_source
from e2llm.process_memory import peak_resident_bytes


def compare_reading(
    engine: Engine,
    *,
    encoder: str = MINILM_ID,
    num_tokens: int,
    repeats: int,
    text: str | None = None,
    on_progress: Callable[[str], Any] | None = None,
) -> dict[str, Any]:
    """Read the same chunks by this library and by sentence-transformers, in turns.

    Both start from the chunks' texts and end with one mean-pooled vector per chunk; ours makes the soft
    tokens as well.

    Args:
        engine: Its encoder must be `encoder`, unchanged.
        encoder: For sentence-transformers.
        num_tokens: Decoder tokens of the text.
        repeats: Of each side, after one to warm up.
        text: In the place of one made up; repeated and cut to the number of tokens.
        on_progress: Called with a line before each measurement.

    Raises:
        MissingExtraError: If sentence-transformers is not installed.
        E2LLMError: If the encoder is not mean-pooled.
    """
    try:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.models import Pooling, Transformer
    except ImportError as error:
        raise MissingExtraError("sentence-transformers", "bench") from error
    if engine.model.config.pooling != "mean":
        raise E2LLMError("bench read compares mean-pooled vectors; the model's pooling is not 'mean'")
    words = Transformer(resolve_source(encoder), max_seq_length=engine.processor.max_chunk_tokens)
    rival = SentenceTransformer(
        modules=[words, Pooling(words.get_word_embedding_dimension(), pooling_mode="mean")],
        device=str(engine.device),
    )
    chunks = engine.processor.split(text_of_length(engine, num_tokens, text))
    texts = [chunk.text for chunk in chunks]
    lengths = [len(row) for row in engine.processor.encode_chunk_ids(texts)]
    work = reading_operations(engine.model, lengths)
    vectors: dict[str, torch.Tensor] = {}

    def ours() -> None:
        vectors["ours"] = engine.reader.read(texts, progress=False).vectors

    def theirs() -> None:
        encoded = rival.encode(texts, batch_size=32, convert_to_tensor=True, show_progress_bar=False)
        vectors["theirs"] = encoded.float().cpu()

    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    rates = []
    for number in range(repeats + 1):
        for name, run in (("ours", ours), ("theirs", theirs)):
            if on_progress is not None:
                on_progress(f"{name}, {number} of {repeats}")
            started = time.perf_counter()
            run()
            if number:
                times[name].append(time.perf_counter() - started)
        rates.append(gemm_rate(engine.model))
    seconds = {name: statistics.median(values) for name, values in times.items()}
    rate = statistics.median(rates)
    return {
        "chunks": len(texts),
        "encoder_tokens": sum(lengths),
        "ours_s": seconds["ours"],
        "sentence_transformers_s": seconds["theirs"],
        "speedup": seconds["theirs"] / seconds["ours"],
        "ours_tokens_per_s": sum(lengths) / seconds["ours"],
        "sentence_transformers_tokens_per_s": sum(lengths) / seconds["theirs"],
        "ours_operations_per_s": work / seconds["ours"],
        "gemm_rate": rate,
        "gemm_fraction": work / seconds["ours"] / rate,
        "max_difference": (vectors["ours"] - vectors["theirs"]).abs().max().item(),
        "spread": {name: [min(values), max(values)] for name, values in times.items()},
    }


def measure_lengths(
    engine: Engine, lengths: list[int], on_progress: Callable[[str], Any] | None = None
) -> dict[str, Any]:
    """Read and ask contexts of growing length; what does not fit the window is left out by relevance.

    Returns:
        Rows with seconds and the peak memory of the process so far, and the ratio of the last to the first.
    """
    engine.ask(engine.read(make_text(engine, 500), progress=False), QUESTION, max_new_tokens=2)
    rows = []
    for length in sorted(lengths):
        if on_progress is not None:
            on_progress(f"{length:,} tokens")
        text = make_text(engine, length)
        started = time.perf_counter()
        context = engine.read(text, progress=False)
        read = time.perf_counter() - started
        answer = engine.ask(context, QUESTION, max_new_tokens=8, expand=0, overflow="select")
        rows.append(
            {
                "context_tokens": context.num_tokens,
                "chunks": len(context),
                "read_s": read,
                "total_s": time.perf_counter() - started,
                "left_out": answer.left_out,
                "peak_bytes": peak_resident_bytes(),
            }
        )
        del context, answer, text
    return {"rows": rows, "time_ratio": rows[-1]["total_s"] / rows[0]["total_s"]}


def measure_edits(engine: Engine, num_tokens: int, num_edits: int, text: str | None = None) -> dict[str, Any]:
    """Replace single chunks of a context, one after the other, against the time of reading it."""
    text = text_of_length(engine, num_tokens, text)
    engine.read(text[:4000], progress=False)
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
    return {
        "context_tokens": context.num_tokens,
        "chunks": len(context),
        "read_s": read,
        "edit_s": median,
        "edit_fraction": median / read,
        "edit_spread_s": [min(seconds), max(seconds)],
        "chunks_encoded": {"median": statistics.median(encoded), "most": max(encoded)},
        "num_edits": num_edits,
    }
