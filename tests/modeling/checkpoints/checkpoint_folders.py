"""Loading, changing and editing checkpoints in tests."""

import json

import torch
from safetensors.torch import load_file, save_file

from e2llm import E2LLMForConditionalGeneration
from e2llm.modeling import lora

MANIFEST = "e2llm_manifest.json"


def load(folder, **kwargs):
    return E2LLMForConditionalGeneration.from_pretrained(folder, **kwargs)


def change(model, seed=0):
    """Another model of the same kind: every trainable tensor moved."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    return model


def with_lora(model):
    lora.set_modes(model, encoder="lora", decoder="lora", decoder_lora=lora.LoraSettings(rank=3, alpha=5))
    return change(model)


def stored_names(folder):
    return {name for file in folder.glob("model*.safetensors") for name in load_file(file)}


def edit_json(file, **changes):
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, **changes}))


def rewrite_weights(folder, edit):
    """Change the tensors of a checkpoint, and the manifest's list of files with them."""
    state = load_file(folder / "model.safetensors")
    edit(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    edit_json(folder / MANIFEST, files={})
