"""How fast `smol` trains on this machine, beside a plain loop of transformers and peft over the same samples.

    taskset -c 0 python recipes/smol/speed.py DATA [--batches 6] [--json speed.json]

Each variant trains the same batches (forward, backward, AdamW) on one thread after one batch of warm-up. The
GEMM rate is that of the decoder's own matrix shapes, measured in the same run.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from e2llm.training.build import build_model, open_processor, set_trainable
from e2llm.training.cpu_speed import speed_up
from e2llm.training.recipe import load_recipe
from e2llm.training.samples.collator import Sample, SampleCollator
from e2llm.training.samples.data_files import load_sources
from e2llm.training.samples.sample_set import SampleSet

RECIPE = Path(__file__).parent / "smol.yaml"
STAGE = "understanding"
# Name: dtype of the decoder's frozen weights, whether LoRA and packing are the fast ones, whether logits are
# made at labelled positions only, and the decoder's attention.
VARIANTS: dict[str, tuple[str, bool, bool, str]] = {
    "plain loop: float32, padded, all logits": ("float32", False, False, "sdpa"),
    "float32, padded, logits at labels": ("float32", False, True, "sdpa"),
    "bfloat16 weights, padded": ("bfloat16", False, True, "sdpa"),
    "bfloat16 weights, padded, eager attention": ("bfloat16", False, True, "eager"),
    "the trainer: bfloat16 weights, one row, fused LoRA": ("bfloat16", True, True, "sdpa"),
}


def gemm_rate(dtype: torch.dtype, seconds: float = 2.0) -> float:
    """GFLOP/s of the matrix products of SmolLM2-135M over 1,024 positions."""
    shapes = [(576, 576), (576, 192), (576, 1536), (1536, 576)]
    pairs = [(torch.randn(1024, a).to(dtype), torch.randn(a, b).to(dtype)) for a, b in shapes]
    for left, right in pairs:
        left @ right
    done, started = 0.0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        for left, right in pairs:
            left @ right
            done += 2 * left.shape[0] * right.shape[0] * right.shape[1]
    return done / (time.perf_counter() - started) / 1e9


def loop(dtype: str, fast: bool, labelled: bool, attention: str, data: Path) -> Callable[..., float]:
    """A training step over a batch of samples; it returns the seconds that it took."""
    settings = [f"decoder.dtype={dtype}", "adapter.start=random", "data.validation=[]"]
    recipe = next(item for item in load_recipe(RECIPE, settings, data=data) if item.stage == STAGE)
    recipe = recipe.model_copy(update={"init_from": None})
    sources = load_sources(recipe.data.train[:1])
    model, processor = build_model(recipe, sources)
    set_trainable(model, recipe)
    model.language_model.set_attn_implementation(attention)
    if fast:
        speed_up(model.language_model)
    model.train()
    optimizer = torch.optim.AdamW([item for item in model.parameters() if item.requires_grad], lr=1e-5)
    collate = SampleCollator(processor, packs=fast, one_row=fast)

    def step(samples: Sequence[Sample]) -> float:
        started = time.perf_counter()
        batch = collate(samples)
        inputs = {name: item for name, item in batch.items() if name not in ("objectives", "levels")}
        optimizer.zero_grad()
        model(**inputs, only_label_logits=labelled, use_cache=False).loss.backward()
        optimizer.step()
        return time.perf_counter() - started

    return step


def draw(data: Path, count: int) -> list[Sample]:
    """Samples of the recipe's second stage."""
    recipe = next(item for item in load_recipe(RECIPE, data=data) if item.stage == STAGE)
    sources = load_sources(recipe.data.train)
    processor = open_processor(recipe.model_copy(update={"init_from": None}))
    samples = SampleSet(sources, recipe, processor, count)
    return [samples[index] for index in range(count)]


def compare(data: Path, num_batches: int, batch_size: int) -> dict[str, Any]:
    """Tokens per second of each variant, and the machine's GEMM rates."""
    samples = draw(data, (num_batches + 1) * batch_size)
    batches = [samples[at : at + batch_size] for at in range(0, len(samples), batch_size)]
    tokens = sum(len(sample.decoder_input.input_ids) for batch in batches[1:] for sample in batch)
    rates = {name: gemm_rate(getattr(torch, name)) for name in ("float32", "bfloat16")}
    result: dict[str, Any] = {"gemm_gflops": {name: round(rate) for name, rate in rates.items()}}
    result |= {"tokens": tokens, "batch_size": batch_size, "variants": {}}
    for name, (dtype, *options) in VARIANTS.items():
        step = loop(dtype, *options, data)  # type: ignore[arg-type]
        step(batches[0])
        speed = tokens / sum(step(batch) for batch in batches[1:])
        result["variants"][name] = round(speed, 1)
        print(f"{speed:7.1f} decoder tokens/s  {name}", flush=True)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Compare, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path, help="folder that prepare.py has written")
    parser.add_argument("--batches", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--json", type=Path, help="file to write")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    result = compare(options.data, options.batches, options.batch_size)
    speeds = list(result["variants"].values())
    print(f"GEMM GFLOP/s: {result['gemm_gflops']}; trainer beside plain loop: {speeds[-1] / speeds[0]:.2f}x")
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
