"""Choose a device and a precision; load a model and its processor."""

from typing import Any

import torch

from e2llm.errors import E2LLMError
from e2llm.model_names import check_model_name
from e2llm.modeling.model import E2LLMForConditionalGeneration
from e2llm.modeling.processor import E2LLMProcessor

_HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only")


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
    options = {key: kwargs[key] for key in _HUB_OPTIONS if key in kwargs}
    check_model_name(name, **options)
    if (dtype := choose_dtype(place)) is not None:
        kwargs = {"dtype": dtype, **kwargs}
    model = E2LLMForConditionalGeneration.from_pretrained(name, **kwargs)
    processor = E2LLMProcessor.from_pretrained(name, **options)
    if "device_map" not in kwargs:
        model.to(place)
    return model, processor
