"""Put a trained run in the place of the embedded model: `python recipes/mini/publish_mini.py RUN`.

RUN is the output folder of `e2llm train recipes/mini/mini-*.yaml`. The last stage's model, and the curves and
the provenance of every stage that is there, are copied; the model card is written by hand, with the measured
numbers.
"""

import shutil
import sys
from pathlib import Path

from e2llm import E2LLMConfig, E2LLMForConditionalGeneration, E2LLMProcessor
from e2llm.modeling.parts import EMBEDDED_FOLDER

STAGES = (
    "language",
    "understanding",
    "joint",
    "shallow",
    "copying",
    "restating",
    "finding",
    "far",
    "skipping",
    "exact",
    "digits",
    "asking",
    "gathering",
    "keys",
    "settling",
    "many",
    "whole",
    "last",
    "book",
    "tuning",
)
MAX_SHARD_SIZE = "15MB"  # every file of the repository stays under 16 MB


def main(run: Path) -> None:
    """Copy the final model of a run and what it was made with."""
    target = EMBEDDED_FOLDER / "mini"
    final = [run / stage / "final" for stage in STAGES if (run / stage / "final").is_dir()][-1]
    model = E2LLMForConditionalGeneration.from_pretrained(final)
    model.config.encoder_batch_tokens = E2LLMConfig().encoder_batch_tokens  # those of a CPU
    E2LLMProcessor.from_pretrained(final).save_pretrained(target)
    model.save_pretrained(target, max_shard_size=MAX_SHARD_SIZE)
    for stage in (stage for stage in STAGES if (run / stage).is_dir()):
        folder = target / "training" / stage
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("curves.csv", "curves.png", "provenance.json", "result.json"):
            if (run / stage / name).is_file():  # a stage that was stopped by hand has no result
                shutil.copyfile(run / stage / name, folder / name)
    size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    print(f"{target}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
