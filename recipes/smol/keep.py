"""Copy a checkpoint's own weights in bfloat16: adapter and LoRA deltas, half the size of what training saves.

    python recipes/smol/keep.py runs/smol/understanding/checkpoint-300 src/e2llm/embedded/smol

A run starts from the copy with `--set understanding:init_from=smol`; the optimizer's state is not in it.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from e2llm.errors import E2LLMError
from e2llm.modeling.model import E2LLMForConditionalGeneration
from e2llm.modeling.processor import E2LLMProcessor


def keep(source: str, target: Path) -> int:
    """Write the copy; returns its bytes."""
    model = E2LLMForConditionalGeneration.from_pretrained(source, dtype="auto")
    for name, parameter in model.named_parameters():
        if name.startswith("adapter.") or "lora_" in name:
            parameter.data = parameter.data.to(torch.bfloat16)
    model.save_pretrained(target)
    E2LLMProcessor.from_pretrained(source).save_pretrained(target)
    return sum(file.stat().st_size for file in target.rglob("*") if file.is_file())


def main(argv: Sequence[str] | None = None) -> int:
    """Keep one checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", help="checkpoint folder")
    parser.add_argument("target", type=Path, help="folder to write; what it holds of a model is replaced")
    options = parser.parse_args(argv)
    try:
        num_bytes = keep(options.source, options.target)
    except (E2LLMError, OSError) as error:
        print(f"keep: {error}", file=sys.stderr)
        return 1
    print(f"{options.target}: {num_bytes / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
