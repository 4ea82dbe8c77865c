"""Average the weights of two checkpoints of one architecture, one trained on from the other.

    python recipes/mini/average_weights.py FIRST SECOND OUT --second-fraction 0.6

Between a model and what it became in a further stage, the mean often has the skills of both (model soups,
Wortsman et al., arXiv 2203.05482). Configuration and tokenizers are the second's.
"""

import argparse
import sys
from pathlib import Path

from e2llm import E2LLMForConditionalGeneration, E2LLMProcessor
from e2llm.errors import E2LLMError


def average(first: Path, second: Path, output: Path, second_fraction: float) -> None:
    """Write the weighted mean of two checkpoints.

    Args:
        first: A checkpoint.
        second: Another, whose weights have the same names and shapes.
        output: Folder of the result.
        second_fraction: Weight of the second, 0 to 1.

    Raises:
        E2LLMError: If the weights do not match.
    """
    if not 0 <= second_fraction <= 1:
        raise E2LLMError(f"--second-fraction must be from 0 to 1, got {second_fraction}")
    model = E2LLMForConditionalGeneration.from_pretrained(second)
    weights = model.state_dict()
    others = E2LLMForConditionalGeneration.from_pretrained(first).state_dict()
    unlike = sorted(
        name
        for name in {*weights, *others}
        if name not in weights or name not in others or weights[name].shape != others[name].shape
    )
    if unlike:
        raise E2LLMError(f"{first} and {second} differ in the shape of {unlike[0]} ({len(unlike)} in all)")
    means = {
        name: others[name].float().lerp(weight.float(), second_fraction).to(weight.dtype)
        for name, weight in weights.items()
        if weight.is_floating_point()
    }
    model.load_state_dict({**weights, **means})
    model.save_pretrained(output)
    E2LLMProcessor.from_pretrained(second).save_pretrained(output)


def main(arguments: list[str] | None = None) -> int:
    """Average two checkpoints."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument(
        "--second-fraction", type=float, default=0.5, help="weight of the second (default 0.5)"
    )
    options = parser.parse_args(arguments)
    try:
        average(options.first, options.second, options.output, options.second_fraction)
    except (E2LLMError, OSError) as error:
        print(f"average_weights: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
