"""Request and recognise decoders with 4-bit matrices (QLoRA, arXiv 2305.14314).

The base stays as it was published and is quantized while it is loaded; what trains is never quantized. The
choice of nf4 with double quantization and computation in bfloat16 is that of the QLoRA paper.
"""

import importlib.util
import math
from typing import Any

import torch

from e2llm.errors import E2LLMError


def nf4_config() -> Any:
    """A `BitsAndBytesConfig`: 4-bit normal floats, constants quantized once more, bfloat16 computation.

    Raises:
        E2LLMError: If bitsandbytes is not installed.
    """
    require_bitsandbytes("decoder.quantization: nf4")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def require_bitsandbytes(subject: str, otherwise: str = "") -> None:
    """Raise `E2LLMError` if bitsandbytes is not installed.

    Args:
        subject: What needs it.
        otherwise: What else can be done.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise E2LLMError(f"{subject} needs bitsandbytes: pip install 'e2llm[qlora]'{otherwise}")


def saved_quantization(config: Any) -> Any:
    """Return how a decoder was quantized when a checkpoint was saved, or None.

    Raises:
        E2LLMError: If bitsandbytes is not installed.
    """
    saved = getattr(config, "quantization_config", None)
    if saved is None:
        return None
    require_bitsandbytes(
        "this checkpoint was made with a quantized decoder, which",
        ", or load it with quantization_config=None, in the precision that dtype= says",
    )
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig.from_dict(saved) if isinstance(saved, dict) else saved


def is_quantized(part: Any) -> bool:
    """Return whether a part has quantized weights."""
    return any(not parameter.is_floating_point() for parameter in part.parameters())


def num_values(parameter: torch.Tensor) -> int:
    """Return the number of weights in a parameter; 4-bit parameters have two per byte."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else math.prod(state.shape)
