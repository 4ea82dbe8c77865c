"""Compare systems at the same number of decoder positions, one of them your own: the last chunks as text.

python examples/compare_systems.py [--limit N] [--output DIR]
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from e2llm.evaluation.runner import Engines, RunRequest, evaluate
from e2llm.evaluation.systems import SYSTEMS, SoftSystem, View


@dataclass
class LastChunksSystem(SoftSystem):
    """Soft tokens of all chunks, and the last ones as text: what was said last is often what matters."""

    last: int = 2
    name: ClassVar[str] = "last-chunks"

    def view(self, item, max_new_tokens):
        view = super().view(item, max_new_tokens)
        count = len(view.context)
        last = list(range(max(0, count - self.last), count))
        return View(view.context, {**view.options, "expand": last}, view.read_seconds, view.read_peak_bytes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("runs/compared"))
    parser.add_argument("--model", default="smol")
    arguments = parser.parse_args()
    SYSTEMS[LastChunksSystem.name] = LastChunksSystem
    request = RunRequest(
        tasks=["niah_single_1", "fairytaleqa"],
        systems=["e2llm", "last-chunks:last=1", "bm25", "closed-book"],
        model=arguments.model,
        limit=arguments.limit,
        lengths=[1024],
    )
    evaluate(request, arguments.output, Engines(arguments.model, None))
    print((arguments.output / "report.md").read_text())


if __name__ == "__main__":
    main()
