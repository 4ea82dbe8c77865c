"""One side of the benchmark in a process of its own: a line of JSON in, a line of JSON out.

The first line says what to build, each further one what to measure: `full` (the text in the window), `cold`
(read and ask) or `warm` (from a store and ask). A failure is answered as `{"error": ...}`.

A process for `full` gives up the encoder and the adapter before it is measured, which full context does not
need: their memory is not its memory. In both, attention is the decoder's default (SDPA) and the prompt's pass
makes the logits of its last position alone.
"""

import json
import os
import sys
import tempfile
from typing import Any, TextIO

import torch

from e2llm.bench.decoders import QUESTION, build_engine, dial_options, key_value_bytes, text_of_length
from e2llm.bench.rates import gemm_rates, reading_operations
from e2llm.inference.context import Context
from e2llm.inference.peak_memory import release_memory, reset_peak
from e2llm.process_memory import peak_resident_bytes, resident_bytes
from e2llm.store.chunk_store import ChunkStore


class Side:
    """An engine with a text, ready to be measured.

    Args:
        settings: `engine` (arguments of `build_engine`), `side` (`full` or `ours`), `context_tokens`,
            `soft_tokens` or `rate`, `new_tokens`, and `text` if it is not to be made up.
        store: For warm runs.
    """

    def __init__(self, settings: dict[str, Any], store: ChunkStore) -> None:
        self.engine = build_engine(**settings["engine"])
        self.side = settings["side"]
        self.engine.model.generation_config.eos_token_id = None  # as many tokens as asked for
        self.new_tokens = settings["new_tokens"]
        self.level = dial_options(self.engine, settings["soft_tokens"], settings.get("rate"))
        self.text = text_of_length(self.engine, settings["context_tokens"], settings.get("text"))
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
        self.loaded_bytes = self._loaded_bytes()

    def measure(self, way: str) -> dict[str, Any]:
        """Measure one way: seconds to the first token (reading included), per further token, and size."""
        release_memory()
        engine, extra = self.engine, {}
        if way == "full":
            context, expand = Context.of_text(self.text), [0]
        else:
            store = self.store if way == "warm" else None
            if way == "cold":
                extra.update(gemm_rates(engine.model))
            elif not len(self.store):
                engine.read(self.text, store=store, progress=False)
            context, expand = engine.read(self.text, store=store, progress=False), []
        answer = engine.ask(
            context,
            QUESTION,
            **({} if expand else self.level),
            expand=expand,
            max_new_tokens=self.new_tokens,
        )
        first = answer.timing.first_token_seconds or 0.0
        positions = answer.usage.soft_tokens + answer.usage.raw_tokens
        if way == "cold":
            ids = engine.processor.encode_chunk_ids(context.content.texts)
            work = reading_operations(engine.model, [len(row) for row in ids])
            extra["gemm_fraction"] = work / context.read_seconds / extra["gemm_rate"]
            extra["encoder_tokens"] = sum(len(row) for row in ids)
            extra["read_seconds"] = context.read_seconds
        return {
            "ttft_s": context.read_seconds + first,
            "ms_per_token": (answer.timing.total_seconds - first) / max(1, self.new_tokens - 1) * 1e3,
            "positions": positions,
            "kv_bytes": key_value_bytes(engine, positions),
            "peak_bytes": self._peak_bytes(),
            "loaded_bytes": self.loaded_bytes,
            **extra,
        }

    def _peak_bytes(self) -> int:
        if self.engine.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.engine.device)
        return peak_resident_bytes()

    def _loaded_bytes(self) -> int:
        if self.engine.device.type == "cuda":
            return torch.cuda.memory_allocated(self.engine.device)
        return resident_bytes() or 0


def main() -> None:
    """Serve measurements over standard input and output until the input ends."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no reply
    serve(sys.stdin, replies)


def serve(commands: TextIO, replies: TextIO) -> None:
    """Build the side that the first command states and measure what each further one names."""
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
            except Exception as error:  # the other ways and rows go on
                reply(replies, failure(error))


def failure(error: Exception) -> dict[str, Any]:
    """What went wrong, on one line."""
    return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}


def reply(stream: TextIO, content: dict[str, Any]) -> None:
    """Send a line."""
    print(json.dumps(content), file=stream, flush=True)


if __name__ == "__main__":
    main()
