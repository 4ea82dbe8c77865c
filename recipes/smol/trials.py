"""Small runs that compare ways of making soft tokens, at an equal budget; docs/results.md has their table.

    python recipes/smol/trials.py DATA OUT --arms mean tree --seeds 0 1 2
    python recipes/smol/trials.py DATA OUT --table

Each arm trains by `ablation.yaml` and is then measured on held-out prose: the share of right next tokens
given the true beginning, at each rate. OUT/trials.jsonl keeps what is done; a second call goes on from there.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from e2llm.errors import E2LLMError
from e2llm.modeling.adapters import ADAPTERS, PoolingAdapter
from e2llm.modeling.model import E2LLMForConditionalGeneration
from e2llm.modeling.processor import E2LLMProcessor
from e2llm.training.recipe import load_recipe
from e2llm.training.recipes.schema import Recipe
from e2llm.training.run import train
from e2llm.training.samples.collator import SampleCollator
from e2llm.training.samples.data_files import load_sources
from e2llm.training.samples.sample_set import SampleSet

RECIPE = Path(__file__).parent / "ablation.yaml"
RATES = (1, 2, 4, 8)
SAMPLES = 64  # held out, per rate


class ConcatAdapter(PoolingAdapter):
    """The states of a group side by side: one linear layer for each rate, which starts as the mean."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        width = self.projection.out_features
        self.of_rate = nn.ModuleDict(
            {str(rate): nn.Linear(rate // self.finest_rate * width, width, bias=False) for rate in RATES}
        )

    def initialize(self) -> None:
        """Start as the mean."""
        super().initialize()
        with torch.no_grad():
            for layer in self.of_rate.values():
                width = layer.out_features
                parts = layer.in_features // width
                layer.weight.copy_(torch.eye(width).repeat(1, parts) / parts)

    def pool(self, kept: torch.Tensor, num_tokens: torch.Tensor, rates: torch.Tensor) -> torch.Tensor:
        """Each group's states side by side through its rate's layer; a short group is filled by its mean."""
        rows = []
        for states, length, rate in zip(kept, num_tokens.tolist(), rates.tolist(), strict=True):
            size = rate // self.finest_rate
            own = states[: -(-length // self.finest_rate)]
            missing = -len(own) % size
            if missing:
                last = own[-(len(own) % size) :].mean(dim=0, keepdim=True)
                own = torch.cat([own, last.expand(missing, -1)])
            rows.append(self.of_rate[str(rate)](own.view(-1, size * own.shape[-1])))
        return torch.cat(rows)


class TreeAdapter(PoolingAdapter):
    """Neighbours are merged in pairs until the rate is reached: the mean plus an MLP that starts at zero."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        width = self.projection.out_features
        self.pair_norm = nn.RMSNorm(2 * width, eps=1e-6)
        self.pair_up = nn.Linear(2 * width, 2 * width)
        self.pair_down = nn.Linear(2 * width, width)

    def initialize(self) -> None:
        """Start as the mean."""
        super().initialize()
        nn.init.zeros_(self.pair_down.weight)

    def pool(self, kept: torch.Tensor, num_tokens: torch.Tensor, rates: torch.Tensor) -> torch.Tensor:
        """Merge pair by pair."""
        rows = []
        for states, length, rate in zip(kept, num_tokens.tolist(), rates.tolist(), strict=True):
            own = states[: -(-length // self.finest_rate)]
            for _ in range(int(math.log2(rate // self.finest_rate))):
                odd = own[len(own) // 2 * 2 :]
                pairs = own[: len(own) // 2 * 2].view(-1, 2, own.shape[-1])
                flat = self.pair_norm(pairs.flatten(1))
                merged = pairs.mean(dim=1) + self.pair_down(functional.gelu(self.pair_up(flat)))
                own = torch.cat([merged, odd])
            rows.append(own)
        return torch.cat(rows)


class MixAdapter(PoolingAdapter):
    """One state per token: a learned mix of the layers, in the place of all of them side by side."""

    num_layers = 3

    def __init__(self, encoder_size: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(encoder_size, *args, **kwargs)
        self.projection = nn.Linear(encoder_size // self.num_layers, self.projection.out_features)
        self.shares = nn.Parameter(torch.zeros(self.num_layers))

    def mix(self, rows: torch.Tensor) -> torch.Tensor:
        """`[n, layers * E]` to `[n, E]`."""
        layers = rows.view(len(rows), self.num_layers, -1)
        return (layers * self.shares.softmax(dim=0)[:, None]).sum(dim=1)


# Each arm: the adapter, and what it sets in the recipe.
ARMS: dict[str, tuple[type[PoolingAdapter], list[str]]] = {
    "mean": (PoolingAdapter, []),
    "concat": (ConcatAdapter, []),
    "tree": (TreeAdapter, []),
    "layer-mix": (MixAdapter, []),
    "last-layer": (PoolingAdapter, ["encoder.layers=[6]"]),
    "frozen-encoder": (PoolingAdapter, ["encoder.mode=frozen", "encoder.unchecked_tokens=0"]),
    "no-ridge": (PoolingAdapter, ["adapter.start=random"]),
}


def run_arm(name: str, seed: int, data: Path, out: Path) -> dict[str, Any]:
    """Train one arm and measure it: its row of the table."""
    adapter, settings = ARMS[name]
    ADAPTERS["pooling"] = adapter
    settings = [*settings, f"seed={seed}", f"output={out / name / str(seed)}"]
    recipe = load_recipe(RECIPE, settings, data=data)[0]
    started = time.perf_counter()
    result = train(recipe, resume=True)
    seconds = time.perf_counter() - started
    model = E2LLMForConditionalGeneration.from_pretrained(result.folder)
    processor = E2LLMProcessor.from_pretrained(result.folder)
    samples = recipe.train.steps * recipe.train.batch_size
    row = {"arm": name, "seed": seed, "samples": samples, "seconds": round(seconds)}
    row |= {f"rate {rate}": round(accuracy(model, processor, recipe, rate), 4) for rate in RATES}
    return {**row, "loss": round(result.eval_losses["understanding_loss"], 4)}


@torch.no_grad()
def accuracy(
    model: E2LLMForConditionalGeneration, processor: E2LLMProcessor, recipe: Recipe, rate: int
) -> float:
    """Share of right next tokens of held-out windows at one rate."""
    objectives = recipe.objectives.model_copy(update={"rates": [rate], "rate_weights": []})
    held = recipe.model_copy(update={"objectives": objectives, "seed": 0})
    sources = load_sources(recipe.data.validation)
    samples = SampleSet(sources, held, processor, SAMPLES, only="understanding", salt="trial")
    collate = SampleCollator(processor)
    right = total = 0
    for start in range(0, SAMPLES, 8):
        batch = collate([samples[index] for index in range(start, start + 8)])
        labels = batch["labels"][:, 1:][batch["labels"][:, 1:].ne(-100)]
        batch = {name: item for name, item in batch.items() if name not in ("objectives", "levels")}
        logits = model(**batch, only_label_logits=True).logits
        right += int((logits.argmax(dim=-1) == labels).sum())
        total += len(labels)
    return right / total


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown: mean and, over seeds, standard deviation."""
    names = [name for name in ARMS if any(row["arm"] == name for row in rows)]
    lines = [
        "| arm | seeds | " + " | ".join(f"rate {rate}" for rate in RATES) + " | loss |",
        "|---" * 7 + "|",
    ]
    for name in names:
        own = [row for row in rows if row["arm"] == name]
        cells = []
        for key in (*(f"rate {rate}" for rate in RATES), "loss"):
            values = [row[key] for row in own]
            spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{mean(values):.3f}{spread}")
        lines.append(f"| {name} | {len(own)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the arms that are not done yet, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path, help="folder that prepare.py has written")
    parser.add_argument("out", type=Path, help="folder of the runs and of trials.jsonl")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--table", action="store_true", help="print the table of what is done")
    options = parser.parse_args(argv)
    file = options.out / "trials.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    if options.table:
        print(table(rows))
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    done = {(row["arm"], row["seed"]) for row in rows}
    torch.set_num_threads(1)
    for seed in options.seeds:
        for name in options.arms:
            if (name, seed) in done:
                continue
            try:
                row = run_arm(name, seed, options.data, options.out)
            except (E2LLMError, OSError) as error:
                print(f"trials: {error}", file=sys.stderr)
                return 1
            with file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
