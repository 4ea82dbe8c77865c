"""Train on records of your own from Python, then ask the model: what `e2llm train` does, as library calls.

python examples/train_on_your_records.py [--steps N] [--output DIR]

The records are questions and answers about short texts. The adapter is new and learns little in few steps.
For a larger decoder, start from recipes/qwen2.5-7b.yaml instead of recipes/smoke.yaml.
"""

import argparse
import json
from pathlib import Path

from e2llm import Engine
from e2llm.training.recipe import load_recipe
from e2llm.training.run import train

RECIPE = Path(__file__).parent.parent / "recipes" / "smoke.yaml"
THINGS = {"boat": "blue", "kite": "red", "door": "green", "cup": "white", "hat": "black", "bag": "brown"}


def write_records(file: Path) -> None:
    """One JSON object a line: what is read, what is asked, what is to be answered."""
    records = [
        {
            "context": f"Mira came home at nine. The {thing} of her {who} is {colour}. It rained.",
            "prompt": f"Which colour has the {thing} of her {who}?",
            "answer": colour,
        }
        for thing, colour in THINGS.items()
        for who in ("sister", "uncle", "friend", "teacher")
    ]
    file.write_text("".join(f"{json.dumps(record)}\n" for record in records))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--output", type=Path, default=Path("runs/example"))
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    records = arguments.output / "records.jsonl"
    write_records(records)
    files = f'[{{path: "{records.resolve()}", objectives: [understanding, reasoning]}}]'
    overrides = [
        f"output={arguments.output / 'run'}",
        f"data.train={files}",
        f"train.steps={arguments.steps}",
        f"train.evaluate_every_steps={arguments.steps}",
        f"train.save_every_steps={arguments.steps}",
    ]
    for recipe in load_recipe(RECIPE, overrides):
        result = train(recipe)
        print(f"{recipe.name}: {result.steps} steps, held out {result.eval_losses}")
    engine = Engine.from_pretrained(result.folder)
    context = engine.read("Mira came home at nine. The boat of her uncle is blue. It rained.")
    print(engine.ask(context, "Which colour has the boat of her uncle?", max_new_tokens=8).text)


if __name__ == "__main__":
    main()
