"""Check names and devices before anything heavy begins; load a model and its processor."""

import re
from pathlib import Path
from typing import Any

import torch

from e2llm.errors import E2LLMError
from e2llm.modeling.checkpoints.sources import SMOLLM2_INSTALL, resolve_source
from e2llm.modeling.model import E2LLMForConditionalGeneration
from e2llm.modeling.processor import E2LLMProcessor

EMBEDDED_MODEL = "smol"

_HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only")
_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def check_model_name(name: str) -> None:
    """Raise if a name is neither a folder, nor an embedded model, nor shaped like a hub id.

    Raises:
        FileNotFoundError: If the folder does not exist.
        E2LLMError: If the embedded model is not installed, or the name is that of a file.
    """
    if Path(name).is_file():
        raise E2LLMError(f"{name} is a file; give the model's folder")
    if Path(name).is_dir() or resolve_source(name) != name:
        return
    if name == EMBEDDED_MODEL:
        raise E2LLMError(
            f"the embedded model {name!r} is not part of this installation; get it with: "
            f"pip install 'e2llm[smol]' and {SMOLLM2_INSTALL}, or name a folder or a hub id"
        )
    if not _HUB_ID.fullmatch(name):
        raise FileNotFoundError(f"no such model folder: {name}")


def choose_device(name: str | None) -> torch.device:
    """Return the device with this name; by default a GPU if there is one.

    Raises:
        E2LLMError: If the name is unknown, or the machine has no such device.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise E2LLMError(f"unknown device {name!r}; use cpu, cuda, cuda:1, mps, ...") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise E2LLMError(
            f"device {name!r} is unavailable: torch sees {torch.cuda.device_count()} CUDA GPU(s); use cpu"
        )
    return device


def choose_dtype(device: torch.device) -> torch.dtype | None:
    """Return the precision to load a model in: 16 bits on a GPU, None (as saved) on CPU."""
    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def load_pair(
    name: str, place: torch.device, kwargs: dict[str, Any]
) -> tuple[E2LLMForConditionalGeneration, E2LLMProcessor]:
    """Load a model and its processor.

    Args:
        name: Folder, hub id or the name of an embedded model.
        place: The model's device, unless `kwargs` has a `device_map`.
        kwargs: For the model's `from_pretrained`; the precision is `choose_dtype`'s unless it has a `dtype`.

    Raises:
        FileNotFoundError: If a folder is meant and not there.
        E2LLMError: If the checkpoint cannot be loaded.
    """
    check_model_name(name)
    if (dtype := choose_dtype(place)) is not None:
        kwargs = {"dtype": dtype, **kwargs}
    model = E2LLMForConditionalGeneration.from_pretrained(name, **kwargs)
    options = {key: kwargs[key] for key in _HUB_OPTIONS if key in kwargs}
    processor = E2LLMProcessor.from_pretrained(name, **options)
    if "device_map" not in kwargs:
        model.to(place)
    return model, processor
