"""Guard a long run: detect NaN and a full disk, and save the batches of a failed step."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn
from torch.distributed.tensor import DTensor

from e2llm.errors import E2LLMError
from e2llm.files import write_atomically
from e2llm.measuring import peak_resident_bytes
from e2llm.modeling.configuration import PART_MODULES
from e2llm.modeling.model import E2LLMForConditionalGeneration
from e2llm.modeling.processor import E2LLMProcessor
from e2llm.prompts import IGNORE_INDEX
from e2llm.training.samples.sample_set import OBJECTIVES

_SPARE_BYTES = 50 * 2**20
_OPTIMIZER_BYTES = 8  # AdamW: two float32 numbers per trained parameter
_MOST_TEXT = 2000


def save_batches(
    folder: Path,
    step: int,
    batches: Sequence[dict[str, Any]],
    processor: E2LLMProcessor,
    prefix: str = "",
) -> Path:
    """Write an optimizer step's batches for inspection: tensors, and their texts.

    Args:
        folder: Folder of the run.
        step: The step.
        batches: Batches of the collator.
        processor: Decodes them.
        prefix: Of the files' names, to tell processes apart.

    Returns:
        The folder `failed-step-N`, with `batch-I.safetensors` and, to read, `batches.json`.
    """
    target = folder / f"failed-step-{step}"
    described = []
    for number, batch in enumerate(batches):
        tensors = {
            name: item.detach().cpu().contiguous() for name, item in batch.items() if torch.is_tensor(item)
        }
        write_atomically(target / f"{prefix}batch-{number}.safetensors", save(tensors))
        described.append(describe_batch(batch, processor))
    write_atomically(
        target / f"{prefix}batches.json",
        (json.dumps(described, indent=1, ensure_ascii=False) + "\n").encode(),
    )
    return target


def describe_batch(batch: dict[str, Any], processor: E2LLMProcessor) -> dict[str, Any]:
    """Return a batch as text: each row, its labelled part, and the chunks."""
    rows = []
    for ids, labels, objectives in zip(batch["input_ids"], batch["labels"], batch["objectives"], strict=True):
        wanted = labels[labels.ne(IGNORE_INDEX)]
        names = sorted({OBJECTIVES[number] for number in objectives[labels.ne(IGNORE_INDEX)].tolist()})
        rows.append(
            {
                "objectives": names,
                "input": processor.tokenizer.decode(ids)[:_MOST_TEXT],
                "labels": processor.tokenizer.decode(wanted)[:_MOST_TEXT],
                "num_positions": len(ids),
                "num_labels": len(wanted),
            }
        )
    chunks = batch.get("chunk_input_ids")
    texts = (
        [] if chunks is None else processor.encoder_tokenizer.batch_decode(chunks, skip_special_tokens=True)
    )
    return {"rows": rows, "chunks": texts}


def checkpoint_bytes(model: E2LLMForConditionalGeneration) -> int:
    """Return the bytes of a checkpoint to resume from: the weights in it, and the optimizer's state.

    Beside what trains, a checkpoint holds every part that exists nowhere else.
    """
    kept_elsewhere = tuple(
        f"{PART_MODULES[part]}." for part, source in model.part_sources.items() if source.name
    )
    total = 0
    for name, item in model.named_parameters():
        count = getattr(item, "ds_numel", item.numel())  # under ZeRO-3 a process holds none of it
        if item.requires_grad:
            total += count * (item.element_size() + _OPTIMIZER_BYTES)
        elif not name.startswith(kept_elsewhere):
            total += count * item.element_size()
    return total


@torch.no_grad()
def largest_weight(model: nn.Module) -> float:
    """Return the largest magnitude among the weights that train; of this process's shard if they are sharded.

    The result is NaN or infinite if a weight is.
    """
    trained = (item for item in model.parameters() if item.requires_grad)
    local = (item.to_local() if isinstance(item, DTensor) else item for item in trained)
    largest = [item.abs().max() for item in local if item.numel()]
    return float(torch.stack(largest).max()) if largest else 0.0


def check_disk_space(folder: Path, needed: int, what: str) -> None:
    """Raise if a disk has too little free space.

    Args:
        folder: Where it is to be written; made if need be.
        needed: Bytes; 50 MiB more are asked for.
        what: Name for the error.

    Raises:
        E2LLMError: With the bytes needed and free, and what to do.
    """
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed + _SPARE_BYTES:
        raise E2LLMError(
            f"{folder}: {what} needs {(needed + _SPARE_BYTES) / 1e6:,.0f} MB of disk space, but "
            f"{free / 1e6:,.0f} MB are free; free some, set another output, or lower "
            "train.keep_checkpoints. Saved checkpoints are intact: continue with --resume"
        )


def peak_memory_bytes() -> int:
    """Return the peak memory so far: of the GPU's allocator, or of this process."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return peak_resident_bytes()
