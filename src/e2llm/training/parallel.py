"""Distribute a run over processes: `train.parallel` as settings of transformers, FSDP2 and DeepSpeed.

| key     | each process holds                                          | by                          |
|---------|-------------------------------------------------------------|-----------------------------|
| `ddp`   | the whole model                                             | torch's DDP                 |
| `fsdp2` | a share of weights, gradients and optimizer state           | torch's `fully_shard`       |
| `zero2` | the whole model, a share of gradients and optimizer state   | DeepSpeed                   |
| `zero3` | a share of weights, gradients and optimizer state           | DeepSpeed                   |
"""

import importlib.util
import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from e2llm.errors import E2LLMError
from e2llm.modeling.configuration import PART_MODULES

SHARDED_WEIGHTS = ("fsdp2", "zero3")
_LAUNCHER_SETTINGS = {"ACCELERATE_USE_FSDP": "--use_fsdp", "ACCELERATE_USE_DEEPSPEED": "--use_deepspeed"}


def parallel_arguments(parallel: str, layer_classes: Sequence[str]) -> dict[str, Any]:
    """Return the settings of `TrainingArguments` that distribute a run; `ddp` needs none.

    Args:
        parallel: `ddp`, `fsdp2`, `zero2` or `zero3`.
        layer_classes: Names of the classes that are gathered as a whole, `layer_class_names(model)`.

    Raises:
        E2LLMError: If it cannot work here: no launcher, no GPU, no DeepSpeed, or a launcher with settings
            of its own.
    """
    check_launcher(parallel)
    if parallel == "fsdp2":
        if not torch.cuda.is_available():
            raise E2LLMError("train.parallel: fsdp2 needs a GPU, but there is none; set train.parallel: ddp")
        return {"fsdp": True, "fsdp_config": fsdp_config(layer_classes)}
    if parallel in ("zero2", "zero3"):
        if importlib.util.find_spec("deepspeed") is None:
            raise E2LLMError(
                f"train.parallel: {parallel} needs DeepSpeed, which is not installed: "
                "pip install 'e2llm[deepspeed]', or set train.parallel: fsdp2"
            )
        return {"deepspeed": deepspeed_config(int(parallel[-1]))}
    return {}


def check_launcher(parallel: str) -> None:
    """Raise `E2LLMError` if the launch contradicts the recipe."""
    for name, option in _LAUNCHER_SETTINGS.items():
        if os.environ.get(name, "false").lower() in ("1", "true", "yes"):
            raise E2LLMError(
                f"accelerate launch was given {option}, but the recipe says train.parallel: {parallel}; only "
                f"the recipe decides this; launch without {option} and set train.parallel"
            )
    if parallel != "ddp" and "LOCAL_RANK" not in os.environ:
        raise E2LLMError(
            f"train.parallel: {parallel} shards a run between processes, but there is only one; start "
            "it with torchrun --nproc-per-node N -m e2llm train ..., or set train.parallel: ddp"
        )


def fsdp_config(layer_classes: Sequence[str]) -> dict[str, Any]:
    """Return the settings of FSDP2 in transformers' names.

    Every process loads the model itself: a checkpoint of ours is put together from base models and deltas,
    which `cpu_ram_efficient_loading` (empty weights on all processes but one) does not know.
    """
    return {
        "version": 2,
        "reshard_after_forward": True,
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "transformer_layer_cls_to_wrap": list(layer_classes),
        "state_dict_type": "FULL_STATE_DICT",  # with another, transformers' Trainer saves no model
        "cpu_ram_efficient_loading": False,
    }


def deepspeed_config(stage: int) -> dict[str, Any]:
    """Return the settings of DeepSpeed's ZeRO; transformers' Trainer fills in each `auto`.

    Args:
        stage: 2 (gradients and optimizer state are shared out) or 3 (weights, too).
    """
    zero: dict[str, Any] = {
        "stage": stage,
        "contiguous_gradients": True,
        "overlap_comm": True,
        "reduce_bucket_size": "auto",
    }
    if stage == 2:
        zero |= {"reduce_scatter": True, "allgather_partitions": True}
    else:
        zero |= {
            "stage3_prefetch_bucket_size": "auto",
            "stage3_param_persistence_threshold": "auto",
            "stage3_gather_16bit_weights_on_model_save": True,
        }
    return {
        "zero_optimization": zero,
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": "auto"},
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
    }


def keep_losses_in_float32(arguments: Any) -> None:
    """Set FSDP2 to compute in half precision, but to reduce gradients and return losses in float32.

    Left to itself, accelerate has gradients summed and the model's outputs, our token losses, cast in half
    precision. Weights that train stay in float32 between steps.
    """
    if arguments.fsdp_plugin_args is None or not (arguments.bf16 or arguments.fp16):
        return
    from torch.distributed.fsdp import MixedPrecisionPolicy

    half = torch.bfloat16 if arguments.bf16 else torch.float16
    policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32, output_dtype=None)
    arguments.fsdp_plugin_args["mixed_precision_policy"] = policy


def layer_class_names(model: Any) -> list[str]:
    """Return the names of the encoder's and decoder's layer classes, which sharding gathers one at a time.

    These are what transformers keeps on one device; for a part that names none, what its first list of
    modules holds. What belongs to no layer (the adapter, norms) is gathered once for the whole step.
    """
    names: set[str] = set()
    for attribute in PART_MODULES.values():
        part = getattr(model, attribute)
        present = {type(module).__name__ for module in part.modules()}
        found = present & set(getattr(part, "_no_split_modules", None) or ())
        if not found:
            lists = (module for module in part.modules() if isinstance(module, nn.ModuleList))
            found = {type(layer).__name__ for layer in next(lists, ())}
        names |= found
    return sorted(names)


def leave_engines() -> None:
    """Clear the engine settings that transformers and accelerate keep: the next stage may have others."""
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()  # else later models would be loaded in shards
    for name in _LAUNCHER_SETTINGS:
        os.environ.pop(name, None)


def largest_of_all(count: int) -> int:
    """Return the largest count of all processes; each process must call it at the same place."""
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else "cpu"
    value = torch.tensor(count, device=device)
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return int(value)


def flatten_scalars(model: nn.Module) -> frozenset[str]:
    """Give parameters that are one number a dimension of size 1, in place; neither FSDP2 nor DeepSpeed takes
    one without.

    Returns:
        Their names.
    """
    names = [name for name, parameter in model.named_parameters() if parameter.dim() == 0]
    for name in names:
        owner, _, attribute = name.rpartition(".")
        parameter = model.get_parameter(name)
        flat = nn.Parameter(parameter.detach().reshape(1), requires_grad=parameter.requires_grad)
        setattr(model.get_submodule(owner), attribute, flat)
    return frozenset(names)


def as_saved(
    model: Any, state: dict[str, torch.Tensor], scalars: frozenset[str] = frozenset()
) -> dict[str, torch.Tensor]:
    """Return gathered tensors as an unsharded model has them: `scalars` as numbers, tied weights once."""
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    return {
        name: tensor.reshape(()) if name in scalars else tensor
        for name, tensor in state.items()
        if tied.get(name) not in state
    }


def gathered_state_dict(trainer: Any) -> dict[str, torch.Tensor] | None:
    """Return the whole model's tensors for saving, on the main process; every process must call it.

    Returns:
        Tensors by their names, empty or None on other processes; None where each process holds the model.
    """
    if not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        return None
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    return as_saved(trainer.model, state, trainer.scalars) if state else None
