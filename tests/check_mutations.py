"""Break the most important functions, one at a time, and see that the tests notice.

Run by `make mutations`. Each break is made in a copy of the source, and the named tests run against it; a
break that no test notices is a failure of the tests.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Mutation:
    """A break.

    Attributes:
        function: What is broken.
        file: Under src/e2llm.
        old: What stands there, once.
        new: What stands there instead.
        tests: Files that must notice.
    """

    function: str
    file: str
    old: str
    new: str
    tests: str


MUTATIONS = [
    Mutation(
        "hide_chunks: the chunk stays visible",
        "inference/decoding/evidence.py",
        "visible[copy, :, slice(*span)] = False",
        "visible[copy, :, slice(*span)] = True",
        "tests/inference/test_sources.py",
    ),
    Mutation(
        "split_text: a chunk lost at the end",
        "chunking.py",
        "return [Chunk(start, end, text[start:end]) for start, _, end in spans]",
        "return [Chunk(start, end, text[start:end]) for start, _, end in spans[:-1] or spans]",
        "tests/test_chunking.py",
    ),
    Mutation(
        "encode_text: control tokens of a user's text are left as they come out",
        "prompts.py",
        "if pattern is None or control_ids.isdisjoint(ids) or not pattern.search(text):",
        "if True:",
        "tests/test_prompts.py",
    ),
    Mutation(
        "AttentionPoolingAdapter.forward: padding is attended to",
        "modeling/adapters.py",
        "attn_mask=mask.bool()[:, None, None, :],",
        "attn_mask=None,",
        "tests/modeling/test_adapters.py",
    ),
    Mutation(
        "Adapter.soft_tokens: the last soft tokens instead of the first",
        "modeling/adapters.py",
        "return kept[places < num_soft_tokens[:, None]]",
        "return kept[places >= kept.shape[1] - num_soft_tokens[:, None]]",
        "tests/modeling/test_decoder_inputs.py tests/inference/test_ask.py",
    ),
    Mutation(
        "coarsen: a short last group counts as much as a whole one",
        "modeling/rates.py",
        "means, _ = _average(kept[used], sizes[used], target[used], int(counts.sum()))",
        "means, _ = _average(kept[used], sizes[used].sign(), target[used], int(counts.sum()))",
        "tests/modeling/test_rates.py",
    ),
    Mutation(
        "reading_fingerprint: which layers are read does not count",
        "modeling/identity.py",
        '"encoder_layers": config.encoder_layers,',
        '"encoder_layers": None,',
        "tests/modeling/test_identity.py tests/inference/test_rate.py",
    ),
    Mutation(
        "divergence: of the student from the teacher instead of the teacher from the student",
        "training/distillation.py",
        'functional.kl_div(made, target, reduction="sum", log_target=True)',
        'functional.kl_div(target, made, reduction="sum", log_target=True)',
        "tests/training/test_levels.py",
    ),
    Mutation(
        "plan_passes: the order of chunks is not restored",
        "modeling/encoding.py",
        "order = torch.argsort(lengths, descending=True, stable=True)",
        "order = torch.argsort(lengths, descending=True, stable=True).flip(0)",
        "tests/modeling/test_encode_chunks.py",
    ),
    Mutation(
        "positions_of: padding counts as a position",
        "modeling/placeholders.py",
        "(attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)",
        "torch.arange(attention_mask.shape[1]).expand_as(attention_mask)",
        "tests/inference/decoding/test_decoding_batch.py",
    ),
    Mutation(
        "E2LLMTrainer.compute_loss: each batch by its own count, not the step's",
        "training/trainer.py",
        "divisors = counts if num_items_in_batch is None else num_items_in_batch",
        "divisors = counts",
        "tests/training/test_trainer.py",
    ),
    Mutation(
        "read_content: what was known is read again under another text's row",
        "inference/content.py",
        "[places[text] for text in texts]",
        "sorted(places[text] for text in texts)",
        "tests/inference/test_context.py",
    ),
    Mutation(
        "best_first: the least relevant chunks first",
        "inference/planning.py",
        "(-scores[index], index not in preferred, index)",
        "(scores[index], index not in preferred, index)",
        "tests/inference/test_planning.py",
    ),
    Mutation(
        "Spending.give: the budget is not kept",
        "inference/planning.py",
        "if room is not None and used > room:",
        "if room is not None and used > 2 * room:",
        "tests/inference/test_planning.py",
    ),
    Mutation(
        "ChunkStore: an entry that does not have its hash is believed",
        "store/chunk_store.py",
        "or _checksum(key, body) != data[:_CHECKSUM_BYTES]:",
        'or _checksum(key, body) == b"":',
        "tests/store",
    ),
    Mutation(
        "KeyRing.owner: any key is let in",
        "serving/http/keys.py",
        'if scheme.lower() != "bearer" or not any(matches):',
        'if scheme.lower() != "bearer":',
        "tests/serving/test_access.py",
    ),
    Mutation(
        "DecodingBatch: caches joined without moving the shorter ones",
        "inference/decoding/batch.py",
        "functional.pad(tensor, (0, 0, count, 0))",
        "functional.pad(tensor, (0, 0, 0, count))",
        "tests/inference/decoding/test_decoding_batch.py",
    ),
]


def run(mutation: Mutation, folder: Path) -> bool:
    """Whether the tests notice a break."""
    source = folder / "src"
    shutil.copytree(ROOT / "src", source)
    file = source / "e2llm" / mutation.file
    text = file.read_text(encoding="utf-8")
    assert text.count(mutation.old) == 1, f"{mutation.file}: what is to be broken stands there no more"
    file.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
    path = os.pathsep.join([str(source), str(ROOT / "tests")])
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-o", "addopts=", *mutation.tests.split()]
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    if result.returncode not in (0, 1):
        sys.exit(f"{mutation.function}: the tests did not run:\n{result.stdout}{result.stderr}")
    return result.returncode == 1


def main() -> int:
    """Print each break and whether it was noticed; 1 if one was not."""
    missed = 0
    for mutation in MUTATIONS:
        with tempfile.TemporaryDirectory(prefix="e2llm-mutation-") as name:
            caught = run(mutation, Path(name))
        missed += not caught
        print(f"{'caught' if caught else 'MISSED'}  {mutation.function}  ({mutation.tests})", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
