"""One side of the main table in a separate process: the first line builds it, each further one measures.

A line is `full` (the text in the window), `cold` (read and ask) or `warm` (ask from a store). A process for
`full` gives up encoder and adapter before it is measured, since full context needs neither. In both,
attention is the decoder's default (SDPA), and the prompt's pass makes the logits of its last position alone.
"""

import json
import sys
import tempfile
from typing import Any, TextIO

import torch

from e2llm.bench.decoders import QUESTION, build_engine, level_options, text_of_length
from e2llm.bench.processes import failure, open_replies, reply
from e2llm.bench.rates import gemm_rate, reading_operations
from e2llm.bench.speed import NEW_TOKENS
from e2llm.inference.context import Context
from e2llm.measuring import peak_resident_bytes, release_memory, reset_peak, resident_bytes
from e2llm.store.chunk_store import ChunkStore


class Side:
    """An engine with a text, ready to be measured.

    Args:
        settings: `engine` (arguments of `build_engine`), `side` (`full` or `ours`), `context_tokens`
            and `soft_tokens`.
        store: For warm runs.
    """

    def __init__(self, settings: dict[str, Any], store: ChunkStore) -> None:
        self.engine = build_engine(**settings["engine"])
        self.side = settings["side"]
        self.engine.model.generation_config.eos_token_id = None  # every answer gets its full length
        self.level = level_options(self.engine, settings["soft_tokens"])
        self.text = text_of_length(self.engine, settings["context_tokens"])
        self.store = store
        self._warm_up()

    def _warm_up(self) -> None:
        short = self.text[:2000]
        if self.side == "full":
            self.engine.model.chunk_encoder.to("meta")
            self.engine.model.adapter.to("meta")
            self.engine.ask(Context.of_text(short), QUESTION, expand=[0], max_new_tokens=2)
        else:
            context = self.engine.read(short, progress=False)
            self.engine.ask(context, QUESTION, **self.level, max_new_tokens=2)
        reset_peak()  # building takes more than measuring
        on_gpu = self.engine.device.type == "cuda"
        self.loaded_bytes = torch.cuda.memory_allocated() if on_gpu else resident_bytes() or 0

    def measure(self, way: str) -> dict[str, Any]:
        """Measure one way: seconds to the first token (reading included), per further token, and size."""
        release_memory()
        engine, options = self.engine, {**self.level, "expand": []}
        if way == "full":
            context, options = Context.of_text(self.text), {"expand": [0]}
        else:
            store = self.store if way == "warm" else None
            if store is not None and not len(store):
                engine.read(self.text, store=store, progress=False)
            context = engine.read(self.text, store=store, progress=False)
        answer = engine.ask(context, QUESTION, **options, max_new_tokens=NEW_TOKENS)
        first = answer.timing.first_token_seconds or 0.0
        positions = answer.usage.soft_tokens + answer.usage.raw_tokens
        on_gpu = engine.device.type == "cuda"
        return {
            "ttft_s": context.read_seconds + first,
            "ms_per_token": (answer.timing.total_seconds - first) / (NEW_TOKENS - 1) * 1e3,
            "positions": positions,
            "kv_bytes": positions * int(engine.model.cache_bytes_per_token),
            "peak_bytes": torch.cuda.max_memory_allocated() if on_gpu else peak_resident_bytes(),
            "loaded_bytes": self.loaded_bytes,
            **(self._reading(context) if way == "cold" else {}),
        }

    def _reading(self, context: Context) -> dict[str, float]:
        """Return how fast the text was read, beside how fast the machine multiplies."""
        ids = self.engine.processor.encode_chunk_ids(context.content.texts)
        work = reading_operations(self.engine.model, [len(row) for row in ids])
        rate = gemm_rate(self.engine.model)
        return {
            "gemm_rate": rate,
            "gemm_fraction": work / context.read_seconds / rate,
            "encoder_tokens": sum(len(row) for row in ids),
            "read_seconds": context.read_seconds,
        }


def serve(commands: TextIO, replies: TextIO) -> None:
    """Build the side that the first command states and measure the way that each further one names."""
    settings = json.loads(commands.readline())
    torch.set_num_threads(settings["num_threads"])
    with tempfile.TemporaryDirectory() as folder, ChunkStore(folder) as store:
        try:
            side = Side(settings, store)
        except Exception as error:
            reply(replies, failure(error))
            return
        tokens = side.engine.count_tokens(side.text)
        reply(replies, {"context_tokens": tokens, "chars_per_token": len(side.text) / tokens})
        for line in commands:
            try:
                reply(replies, side.measure(json.loads(line)))
            except Exception as error:  # the other ways and rows are still measured
                reply(replies, failure(error))


if __name__ == "__main__":
    serve(sys.stdin, open_replies())
