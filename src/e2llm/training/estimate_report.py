"""Estimates as text: lines for a terminal, an object for JSON, and the table of docs/scaling.md.

    python -m e2llm.training.estimate_report docs/scaling.md recipes/*.yaml

writes the table between the two marks in that file.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from e2llm.files import put_between, write_atomically
from e2llm.training.devices import DEVICES, Device
from e2llm.training.dry_run import DryRun
from e2llm.training.estimate import GIB, Estimate, estimate
from e2llm.training.recipe import load_recipe
from e2llm.training.sample_sizes import Assumptions
from e2llm.training.schema import Recipe

BEGIN, END = (
    "<!-- estimates: made by e2llm.training.estimate_report -->",
    "<!-- end of estimates -->",
)
_SMALL_GIB = 0.05


def title_of(recipe: Recipe) -> str:
    """Name and stage."""
    return " ".join(filter(None, (recipe.name, recipe.stage)))


def verdict(needed_gib: float, device: Device) -> str:
    """Whether a run fits a device, with a tenth left for what fragments."""
    if needed_gib > device.memory_gib:
        return "does not fit"
    return "fits" if needed_gib <= 0.9 * device.memory_gib else "may just fit"


def samples_per_step(recipe: Recipe, num_devices: int) -> int:
    """Samples that one optimizer step reads, on all devices together."""
    return recipe.train.batch_size * recipe.train.gradient_accumulation * num_devices


def report(run: DryRun, device: Device, num_devices: int, guess: Assumptions) -> str:
    """What a terminal shows of one stage."""
    check, paper, recipe = run.check, run.estimate, run.recipe
    shapes = ", ".join(str(list(shape)) for shape in check.soft_tokens) or "none"
    memory = ", ".join(
        f"{name} {value / GIB:.1f}" for name, value in paper.memory.items() if value / GIB >= _SMALL_GIB
    )
    parameters = ", ".join(
        f"{part} {total:,} ({trainable:,} train)" for part, (trainable, total) in paper.parameters.items()
    )
    longest = ", ".join(
        f"{name} {size.positions:,.0f} positions, {size.chunks:,.0f} chunks"
        for name, size in paper.longest.items()
    )
    hours = paper.hours(device, guess)
    samples = samples_per_step(recipe, num_devices)
    return "\n".join(
        (
            title_of(recipe),
            f"  tiny step   passed in {check.seconds:.1f} s: soft tokens {shapes}; gradients reach the "
            f"{check.tensors_trained} tensors that train, {check.tensors_frozen} stay as they were; saved = "
            "loaded",
            f"  parameters  {parameters}",
            f"  longest     {longest}",
            f"  memory      {paper.memory_gib:.1f} GiB on each {device.title} ({device.memory_gib:g} GiB): "
            f"{verdict(paper.memory_gib, device)}",
            f"              {memory}",
            f"  time        {hours:.1f} h for {paper.steps:,} steps of {samples} samples on {num_devices} x "
            f"{device.title}, without evaluation; assumed: {guess.peak_share:.0%} of the peak, contexts of "
            f"{guess.context_chars:,.0f} characters, {guess.chars_per_token:g} characters per token",
            f"  cost        ${hours * num_devices * device.dollars_per_hour:,.2f}; assumed: "
            f"${device.dollars_per_hour:.2f} per GPU hour",
        )
    )


def as_dict(run: DryRun, device: Device, num_devices: int, guess: Assumptions) -> dict[str, Any]:
    """The same for JSON; memory in bytes."""
    hours = run.estimate.hours(device, guess)
    return {
        "name": run.recipe.name,
        "check": dataclasses.asdict(run.check),
        "estimate": dataclasses.asdict(run.estimate),
        "memory_gib": run.estimate.memory_gib,
        "device": dataclasses.asdict(device),
        "num_devices": num_devices,
        "verdict": verdict(run.estimate.memory_gib, device),
        "hours": hours,
        "dollars": hours * num_devices * device.dollars_per_hour,
        "assumptions": dataclasses.asdict(guess),
    }


def table(recipes: Sequence[Recipe], guess: Assumptions | None = None) -> str:
    """A Markdown table: a row per stage, memory and its main part, hours and dollars per device."""
    guess = guess or Assumptions()
    heads = [f"{device.title} (${device.dollars_per_hour:.2f}/h assumed)" for device in DEVICES.values()]
    rows = [
        "| recipe, stage | trains | GiB | most of it | longest sample | " + " | ".join(heads) + " |",
        "|" + "---|" * (5 + len(heads)),
    ]
    for recipe in recipes:
        paper = estimate(recipe, guess)
        largest = max(paper.memory, key=lambda name: paper.memory[name])
        cells = [
            title_of(recipe),
            f"{sum(trainable for trainable, _ in paper.parameters.values()) / 1e6:,.1f} M",
            f"{paper.memory_gib:.1f}",
            f"{largest} {paper.memory[largest] / GIB:.1f}",
            f"{max(size.positions for size in paper.longest.values()):,.0f} positions",
            *(device_cell(paper, device, guess) for device in DEVICES.values()),
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def device_cell(paper: Estimate, device: Device, guess: Assumptions) -> str:
    """Hours and dollars of a stage on one device, or that it does not fit."""
    result = verdict(paper.memory_gib, device)
    if result == "does not fit":
        return result
    hours = paper.hours(device, guess)
    price = f"{hours:.2f} h, ${hours * device.dollars_per_hour:.2f}"
    return price if result == "fits" else f"{price} ({result})"


def insert(document: str, recipes: Sequence[Recipe]) -> str:
    """The document with a new table between its two marks."""
    return put_between(document, BEGIN, END, table(recipes))


if __name__ == "__main__":
    file = Path(sys.argv[1])
    stages = [recipe for name in sys.argv[2:] for recipe in load_recipe(name)]
    write_atomically(file, insert(file.read_text(encoding="utf-8"), stages).encode())
