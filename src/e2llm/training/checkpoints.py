"""Find the newest complete checkpoint of a run to resume from, and load its weights."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from pydantic import BaseModel, ValidationError
from safetensors.torch import load_file
from torch import nn

from e2llm.errors import CheckpointError, E2LLMError
from e2llm.files import check_folder_place, sync, write_atomically
from e2llm.modeling.checkpoints.fingerprint import changed_file, list_files
from e2llm.modeling.configuration import PART_MODULES
from e2llm.modeling.lora import file_name
from e2llm.training.console import is_first_process, say

STATE_NAME = "trainer_state.json"
FILES_NAME = "files.json"
STAGING_NAME = ".saving"
LOCK_NAME = ".lock"


class FileList(BaseModel):
    """The files of a checkpoint: sizes in bytes and SHA-256, by name."""

    files: dict[str, int]
    sha256: dict[str, str]


def numbered_checkpoints(folder: Path) -> list[Path]:
    """Return the `checkpoint-N` folders of a run by N, also incomplete ones."""
    found = [item for item in folder.glob("checkpoint-*") if item.name.rpartition("-")[2].isdecimal()]
    return sorted(found, key=lambda item: int(item.name.rpartition("-")[2]))


def is_saved(checkpoint: Path) -> bool:
    """Return whether a checkpoint is complete: the trainer's state, which is written last, can be read."""
    try:
        return isinstance(json.loads((checkpoint / STATE_NAME).read_text(encoding="utf-8")), dict)
    except (OSError, ValueError):
        return False


def damage(checkpoint: Path) -> str:
    """Return the first file of a checkpoint that is missing or has changed, by its SHA-256.

    Returns:
        Empty for a checkpoint as it was saved, and for one that has no list of its files.
    """
    try:
        listed = FileList.model_validate_json((checkpoint / FILES_NAME).read_bytes())
    except FileNotFoundError:
        return ""
    except (OSError, ValidationError):
        return f"{FILES_NAME} cannot be read"
    return changed_file(checkpoint, listed.files, listed.sha256)


def last_checkpoint(folder: Path) -> str | None:
    """Return the newest complete checkpoint of a run, or None; print a note for newer, damaged ones.

    The damaged ones stay, until the run comes by their steps again.
    """
    for item in reversed(numbered_checkpoints(folder)):
        if not is_saved(item):
            continue
        if not (problem := damage(item)):
            return str(item)
        say(f"{item} is damaged ({problem}); the checkpoint before it, if there is one, takes its place")
    return None


def remove_cut_short(folder: Path) -> None:
    """Remove checkpoints that a kill left incomplete."""
    for checkpoint in numbered_checkpoints(folder):
        if not is_saved(checkpoint):
            shutil.rmtree(checkpoint)
    shutil.rmtree(folder / STAGING_NAME, ignore_errors=True)


@contextmanager
def held_alone(folder: Path) -> Iterator[None]:
    """Lock a folder against other runs; the first process of a run has the lock.

    Raises:
        E2LLMError: If another run has it, or a file is in the folder's place.
    """
    check_folder_place(folder)
    if not is_first_process():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_NAME)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise E2LLMError(
            f"another process is training into {folder}; wait for it, or set another output"
        ) from error
    try:
        yield
    finally:
        with suppress(OSError):  # Windows does not remove a file that is open
            (folder / LOCK_NAME).unlink()  # before another run can take it
        lock.release()
        with suppress(OSError):  # only an empty folder, of a run that failed before it wrote
            folder.rmdir()


def publish(staged: Path, place: Path) -> None:
    """Write a checkpoint's files and their list to disk, then rename its folder to the final name."""
    listed = list_files(staged, (item for item in staged.rglob("*") if item.is_file()))
    write_atomically(staged / FILES_NAME, (json.dumps(listed, indent=2) + "\n").encode())
    for item in [*staged.rglob("*"), staged]:
        sync(item)
    if place.exists():  # a run that resumed from an older checkpoint saves this one again
        shutil.rmtree(place)
    os.rename(staged, place)
    sync(place.parent)


@torch.no_grad()
def load_weights(model: nn.Module, folder: str | Path) -> None:
    """Copy a checkpoint's own tensors, LoRA deltas included, into the model that is being trained.

    Base weights that the checkpoint only refers to are in the model already and are not read again.

    Raises:
        CheckpointError: If a tensor that trains is missing, or one is unknown or of another shape.
    """
    folder = Path(folder)
    state = model.state_dict(keep_vars=True)
    base = {name.replace(".base_layer.", "."): item for name, item in state.items() if ".lora_" not in name}
    files = [(file, base) for file in sorted(folder.glob("model*.safetensors"))]
    for part, module in PART_MODULES.items():
        file = folder / "lora" / part / "adapter_model.safetensors"
        deltas = {
            f"base_model.model.{file_name(name.removeprefix(module + '.'))}": item
            for name, item in state.items()
            if name.startswith(f"{module}.") and ".lora_" in name
        }
        files += [(file, deltas)] if file.is_file() else []
    filled = set()
    for file, targets in files:
        for key, value in load_file(file).items():
            if key in targets and value.dim() == 0 and targets[key].shape == (1,):
                value = value.reshape(1)  # FSDP2 shards no single number without a dimension
            if key not in targets or targets[key].shape != value.shape:
                raise CheckpointError(
                    f"{file}: {key} is not in the model, or has another shape; check that it belongs to "
                    "this run"
                )
            copy_into(targets[key], value)
            filled.add(id(targets[key]))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in filled:
            raise CheckpointError(
                f"{folder}: {name}, which trains, is missing; check that the checkpoint belongs to this run"
            )


def copy_into(target: torch.Tensor, value: torch.Tensor) -> None:
    """Copy a whole tensor into a parameter, or this process's share of it into a sharded one."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if isinstance(target, DTensor):
        value = value.to(device=target.device, dtype=target.dtype)
        target.copy_(distribute_tensor(value, target.device_mesh, target.placements))
    else:
        target.copy_(value)
