"""Distil from a teacher: the same decoder with LoRA deltas that were trained on raw text.

The teacher's deltas lie beside those that train, in the same layers, and are switched on for one pass without
gradients: no second decoder is held in memory.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.nn import functional

from e2llm.errors import CheckpointError, E2LLMError
from e2llm.modeling.checkpoints.manifest import open_checkpoint
from e2llm.modeling.checkpoints.reporting import listing
from e2llm.modeling.checkpoints.sources import find_model
from e2llm.modeling.lora import ADAPTER_NAME, file_name, lora_layers

TEACHER_NAME = "teacher"


def attach_teacher(model: Any, name: str) -> None:
    """Add the decoder's LoRA deltas of a checkpoint to the layers, beside those that train; they stay frozen.

    Args:
        model: The composite model.
        name: Folder or embedded name of a checkpoint that was trained on raw text, on the same decoder.

    Raises:
        CheckpointError: If it is no such checkpoint, or of another decoder.
    """
    from peft import LoraConfig

    source, manifest = open_checkpoint(find_model(name), {})
    folder = Path(source) / "lora" / "decoder"
    if not folder.is_dir():
        raise CheckpointError(
            f"objectives.distillation.teacher: {name} has no LoRA deltas of a decoder; train one with "
            "objectives.reasoning.context: text and decoder.mode: lora"
        )
    ours = model.part_sources.get("decoder")
    theirs = manifest.parts["decoder"].fingerprint
    if ours is not None and ours.fingerprint != theirs:
        raise CheckpointError(
            f"objectives.distillation.teacher: {name} was trained on a decoder of SHA-256 {theirs}, but this "
            f"run's has {ours.fingerprint}; the teacher must have the same base"
        )
    decoder = model.language_model
    trains = {name for name, parameter in decoder.named_parameters() if parameter.requires_grad}
    decoder.add_adapter(LoraConfig.from_pretrained(str(folder)), adapter_name=TEACHER_NAME)
    state = load_file(folder / "adapter_model.safetensors")
    filled = []
    with torch.no_grad():
        for key, parameter in decoder.named_parameters():
            if f".{TEACHER_NAME}." in key:
                stored = f"base_model.model.{file_name(key.replace(TEACHER_NAME, ADAPTER_NAME))}"
                if stored not in state or state[stored].shape != parameter.shape:
                    raise CheckpointError(f"{folder}: {stored} is missing or of another shape")
                parameter.copy_(state[stored])
                filled.append(stored)
    if unknown := sorted(set(state) - set(filled)):
        raise CheckpointError(f"{folder}: LoRA tensors do not match the model: {listing(unknown)}")
    _switch(decoder, ADAPTER_NAME)
    for key, parameter in decoder.named_parameters():
        parameter.requires_grad_(key in trains)


@contextmanager
def as_teacher(model: Any) -> Iterator[None]:
    """Use the teacher's deltas in the decoder while the block runs."""
    decoder = model.language_model
    trains = [parameter for parameter in decoder.parameters() if parameter.requires_grad]
    was_training = decoder.training
    _switch(decoder, TEACHER_NAME)
    decoder.eval()
    try:
        yield
    finally:
        _switch(decoder, ADAPTER_NAME)
        decoder.train(was_training)
        decoder.requires_grad_(False)
        for parameter in trains:
            parameter.requires_grad_(True)


def _switch(decoder: Any, name: str) -> None:
    for _, layer in lora_layers(decoder):
        layer.set_adapter(name)


@torch.no_grad()
def teacher_logits(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the teacher's logits at the labelled positions.

    Args:
        model: The composite model, with a teacher.
        inputs: `input_ids`, `attention_mask` and `labels` `[B, L]` of the contexts as raw text.

    Returns:
        `[N, V]`, row by row.
    """
    with as_teacher(model):
        embeds = model.get_input_embeddings()(inputs["input_ids"])
        logits: torch.Tensor = model(
            inputs_embeds=embeds,
            attention_mask=inputs["attention_mask"],
            labels=inputs["labels"],
            only_label_logits=True,
        ).logits
    return logits


def divergence(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return the sum over positions of `KL(teacher || student) = sum_v p_v (log p_v - log q_v)`.

    Args:
        logits: `[N, V]` of the student.
        wanted: `[N, V]` of the teacher.

    Raises:
        E2LLMError: If they are not of the same positions.
    """
    if logits.shape != wanted.shape:
        raise E2LLMError(f"the teacher has {len(wanted)} answer positions, but the student has {len(logits)}")
    target = functional.log_softmax(wanted.float(), dim=-1)
    made = functional.log_softmax(logits.float(), dim=-1)
    return functional.kl_div(made, target, reduction="sum", log_target=True)
