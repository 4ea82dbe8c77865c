"""`e2llm train --dry-run`: one real step of every stage with tiny parts, and the memory of the real size.

The step runs through `make_trainer` and `finish` of `e2llm.training.run` in a temporary folder: data, LoRA
targets, objectives, evaluation, checkpoint. Sizes, steps and records are small. Encoder and decoder keep the
recipe's model types if their config.json is on this machine.
"""

import contextlib
import io
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    BertConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

from e2llm.errors import E2LLMError
from e2llm.modeling.checkpoints.parts import encoder_build_kwargs, reject_remote_code
from e2llm.modeling.checkpoints.reporting import quiet_loading
from e2llm.modeling.checkpoints.sources import resolve_source
from e2llm.modeling.configuration import E2LLMConfig
from e2llm.modeling.model import E2LLMForConditionalGeneration
from e2llm.records import Record, write_records
from e2llm.training.build import set_trainable
from e2llm.training.recipes.schema import FINAL_FOLDER, Recipe
from e2llm.training.run import finish, make_trainer
from e2llm.training.trainer import E2LLMTrainer

# Of the largest logit. With 4 bits on a CPU, bitsandbytes multiplies evaluated weights by another kernel.
_TOLERANCES = {"none": 1e-4, "nf4": 0.05}
_NF4_BYTES = 0.53  # per value, with the constants of double quantization
_GIB = 2**30
_NUM_RECORDS = 12
_WIDTH, _LAYERS, _HEADS, _VOCABULARY = 64, 2, 4, 512
_WINDOW = 32_768  # a tiny tokenizer makes a token of each byte
_STORY = (
    "The harbour lights went out at nine. Mira counted the boats again, and there were seven of them. "
    "Nobody had told her that the key was under the blue stone. She found it there in the morning. "
)


@dataclass(frozen=True)
class PartMemory:
    """The memory of one part on each device, without activations.

    Attributes:
        part: `encoder`, `adapter` or `decoder`.
        parameters: All of its numbers, LoRA deltas included.
        trained: Those that train.
        weight_bytes: Bytes of the weights.
        training_bytes: Bytes of gradients and AdamW's two moments.
    """

    part: str
    parameters: int
    trained: int
    weight_bytes: float
    training_bytes: float


@dataclass(frozen=True)
class StageCheck:
    """The outcome of one tiny step of a stage, and the memory of its real size.

    Attributes:
        name: Name of the run and the stage.
        tensors_trained: Tensors that train; a gradient reached each.
        tensors_frozen: Tensors that stayed bit for bit.
        losses: Training loss of each objective of the step.
        seconds: Duration of the step.
        memory: One row per part; empty if the configuration of a part is not on this machine.
    """

    name: str
    tensors_trained: int
    tensors_frozen: int
    losses: dict[str, float]
    seconds: float
    memory: list[PartMemory]

    def report(self) -> str:
        """Return what a terminal shows."""
        lines = [
            f"{self.name}: a tiny step passed in {self.seconds:.1f} s; gradients reach the "
            f"{self.tensors_trained} tensors that train, {self.tensors_frozen} stay as they were; the model "
            "loads as it was saved"
        ]
        if not self.memory:
            return f"{lines[0]}\n  memory unknown: config.json of encoder or decoder is not on this machine"
        lines.append("  part         parameters     that train  weights GiB  training GiB")
        for row in self.memory:
            lines.append(
                f"  {row.part:8} {row.parameters:14,} {row.trained:14,} {row.weight_bytes / _GIB:12.2f} "
                f"{row.training_bytes / _GIB:13.2f}"
            )
        total = sum(row.weight_bytes + row.training_bytes for row in self.memory) / _GIB
        lines.append(f"  {total:.2f} GiB on each device with train.parallel: ddp; activations come on top")
        return "\n".join(lines)


def dry_run(recipes: Sequence[Recipe]) -> list[StageCheck]:
    """Check a recipe without data, weights or a hub.

    Args:
        recipes: The resolved stages, in order.

    Raises:
        E2LLMError: If something in the recipe does not fit, a gradient does not reach what trains, or a saved
            model is not the one that was trained.
    """
    with tempfile.TemporaryDirectory(prefix="e2llm-dry-run-") as folder:
        tiny = shrink(recipes, Path(folder))
        return [check_stage(*pair) for pair in zip(recipes, tiny, strict=True)]


def check_stage(real: Recipe, recipe: Recipe) -> StageCheck:
    """Run one step of a tiny recipe as a real run does, and check the result."""
    started = time.perf_counter()
    name = " ".join(filter(None, (recipe.name, recipe.stage)))
    reached: set[str] = set()
    with contextlib.redirect_stderr(io.StringIO()):  # tables and losses of tiny parts
        trainer = make_trainer(recipe)
        model = trainer.model
        before = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
        for key, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(lambda _, key=key: reached.add(key))
        trainer.train()
        result = finish(recipe, trainer)
    check_gradients(f"dry run of {name}", model, before, reached)
    check_saved(f"dry run of {name}", recipe, trainer, result.folder)
    frozen = sum(not parameter.requires_grad for parameter in model.parameters())
    seconds = round(time.perf_counter() - started, 2)
    return StageCheck(name, len(reached), frozen, result.first_losses, seconds, memory_of(real))


def check_gradients(subject: str, model: Any, before: dict[str, torch.Tensor], reached: set[str]) -> None:
    """Raise unless gradients reached every tensor that trains, and no other tensor has changed."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and name not in reached:
            raise E2LLMError(f"{subject}: no gradient reaches {name}, which should train")
        if parameter.requires_grad or not parameter.is_floating_point():
            continue
        if parameter.grad is not None or not torch.equal(parameter.cpu(), before[name].cpu()):
            raise E2LLMError(f"{subject}: {name} changed, although it should not train")


@torch.no_grad()
def check_saved(subject: str, recipe: Recipe, trainer: E2LLMTrainer, folder: Path) -> None:
    """Raise unless the saved model gives the logits of the trained one."""
    trained: Any = trainer.accelerator.unwrap_model(trainer.model).cpu().eval()
    samples: Any = trainer.train_dataset
    batch = trainer.data_collator([samples[0]])
    for name in ("objectives", "levels", "teacher"):
        batch.pop(name, None)
    loaded = E2LLMForConditionalGeneration.from_pretrained(folder).eval()
    expected, found = trained(**batch).logits.float(), loaded(**batch).logits.float()
    difference = ((expected - found).abs().max() / expected.abs().max()).item()
    if not difference <= _TOLERANCES[recipe.decoder.quantization]:
        raise E2LLMError(
            f"{subject}: the saved model's logits differ from the trained one's by {difference:.2%}"
        )


def memory_of(recipe: Recipe) -> list[PartMemory]:
    """Return the memory of the real model, built without weights on torch's `meta` device."""
    encoder_config = part_config("encoder", recipe.encoder.source)
    decoder_config = part_config("decoder", str(recipe.decoder.source))
    if encoder_config is None or decoder_config is None:
        return []
    dtype = getattr(decoder_config, "dtype", None) or torch.float32
    if recipe.decoder.dtype != "auto":
        dtype = getattr(torch, recipe.decoder.dtype)
    config = E2LLMConfig(
        encoder_config=encoder_config,
        text_config=decoder_config,
        adapter=recipe.adapter.kind,
        max_soft_tokens=recipe.adapter.max_soft_tokens,
        chunk_token_id=0,
    )
    with torch.device("meta"):
        encoder = AutoModel.from_config(
            encoder_config, dtype=torch.float32, **encoder_build_kwargs(encoder_config)
        )
        decoder = AutoModelForCausalLM.from_config(decoder_config, dtype=dtype)
        model = E2LLMForConditionalGeneration(config, chunk_encoder=encoder, language_model=decoder)
        set_trainable(model, recipe)
    packed: set[int] = set()
    if recipe.decoder.quantization == "nf4":  # holds all matrices but LoRA and the output head in 4 bits
        head = model.language_model.get_output_embeddings()
        packed = {
            id(module.weight)
            for name, module in model.language_model.named_modules()
            if isinstance(module, nn.Linear) and "lora_" not in name and module is not head
        }
    parts = {"encoder": model.chunk_encoder, "adapter": model.adapter, "decoder": model.language_model}
    return [memory_of_part(name, part, packed) for name, part in parts.items()]


def memory_of_part(name: str, part: nn.Module, packed: set[int]) -> PartMemory:
    """Add up one part. What trains has a float32 gradient and two moments of the same size."""
    parameters = list(part.parameters())
    trained = sum(item.numel() for item in parameters if item.requires_grad)
    weights = sum(
        item.numel() * (_NF4_BYTES if id(item) in packed else item.element_size()) for item in parameters
    )
    return PartMemory(name, sum(item.numel() for item in parameters), trained, weights, 12.0 * trained)


def part_config(part: str, name: str) -> Any:
    """Return the configuration of an encoder or a decoder from this machine; None if it is not there.

    Args:
        part: `encoder` or `decoder`.
        name: Hub id or local folder, or an E2LLM checkpoint that has such a part.
    """
    try:
        config = AutoConfig.from_pretrained(
            resolve_source(name), local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError):
        return None
    reject_remote_code(config, name)
    if config.model_type != E2LLMConfig.model_type:
        return config
    return config.encoder_config if part == "encoder" else config.text_config


def shrink(recipes: Sequence[Recipe], folder: Path) -> list[Recipe]:
    """Return tiny copies of a recipe's stages that run in a separate folder.

    Args:
        recipes: The resolved stages, in order.
        folder: An empty folder for parts, data and runs.

    Returns:
        One tiny recipe per stage; each starts from the one before it, and the first from new parts.
    """
    tiny: list[Recipe] = []
    for recipe in recipes:
        content = recipe.model_dump()
        content["output"] = str(folder / "run")
        content["data"] = tiny_data(recipe, folder / "data")
        content["objectives"]["distillation"]["teacher"] = None  # a model, which is not here
        content["objectives"]["reasoning"]["text_budgets"] = []  # too short for that many tokens
        content["train"].update(
            steps=1, batch_size=2, gradient_accumulation=1, precision="fp32", num_threads=None,
            dataloader_workers=0, log_every_steps=1, evaluate_every_steps=1, evaluate_samples=2,
            save_every_steps=1, parallel="ddp",
        )  # fmt: skip
        content["encoder"].update(source=tiny_part(recipe, "encoder", folder), batch_tokens=2048)
        content["decoder"].update(source=tiny_part(recipe, "decoder", folder), dtype="float32")
        content["init_from"] = str(tiny[-1].folder / FINAL_FOLDER) if tiny else None
        tiny.append(Recipe.model_validate(content))
    return tiny


def tiny_data(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Return the recipe's data section over made-up records, whose answers are at known places."""
    data = recipe.data.model_dump()
    for side, files in (("train", recipe.data.train), ("validation", recipe.data.validation)):
        path = folder / f"{side}.jsonl"
        records = []
        for number in range(_NUM_RECORDS):
            before = f"Harbour {number} of {side}. {_STORY * (1 + number % 4)}"
            fact = f"The number of boat {number} is {1000 + 7 * number}. "
            evidence = ((len(before), len(before) + len(fact)),)
            context = f"{before}{fact}{_STORY * 4}"
            answer = str(1000 + 7 * number)
            records.append(Record(context, f"Which number has boat {number}?", answer, evidence=evidence))
        write_records(path, records)
        purposes = {name for file in files or recipe.data.train for name in file.objectives}
        data[side] = [{"path": str(path), "objectives": sorted(purposes)}]
    return data


def tiny_part(recipe: Recipe, part: str, folder: Path) -> str:
    """Return the folder of a tiny encoder or decoder of the recipe's type, with a tokenizer of bytes."""
    name = str(getattr(recipe, part).source)
    target = folder / "parts" / f"{part}-{Path(name).name}"
    if not target.is_dir():
        real = part_config(part, name) or (BertConfig() if part == "encoder" else LlamaConfig())
        window = getattr(real, "max_position_embeddings", 512) if part == "encoder" else _WINDOW
        kind = AutoModel if part == "encoder" else AutoModelForCausalLM
        pieces = ["<pad>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
        core = Tokenizer(models.BPE({piece: place for place, piece in enumerate(pieces)}, []))
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=core, pad_token="<pad>", eos_token="</s>", model_max_length=window
        )
        tokenizer.save_pretrained(target)
        torch.manual_seed(recipe.seed)
        with quiet_loading():
            kind.from_config(tiny_config(real, window), dtype=torch.float32).save_pretrained(target)
    return str(target)


def tiny_config(config: Any, window: int) -> Any:
    """Return a configuration of the same type, two layers deep."""
    plain = AutoConfig.for_model(config.model_type)
    groups = getattr(config, "num_attention_heads", 1) // (getattr(config, "num_key_value_heads", None) or 1)
    wanted = {
        "hidden_size": _WIDTH,
        "embedding_size": _WIDTH,
        "word_embed_proj_dim": _WIDTH,
        "intermediate_size": 2 * _WIDTH,
        "ffn_dim": 2 * _WIDTH,
        "hidden_dim": 2 * _WIDTH,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": 2 if groups > 1 else _HEADS,
        "head_dim": _WIDTH // _HEADS,
        "vocab_size": _VOCABULARY,
        "max_position_embeddings": window,
    }
    settings = {name: value for name, value in wanted.items() if hasattr(plain, name)}
    for name in ("tie_word_embeddings", "hidden_act", "position_embedding_type"):
        if hasattr(plain, name) and hasattr(config, name):
            settings[name] = getattr(config, name)
    ids = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1}
    return AutoConfig.for_model(config.model_type, **settings, **ids)
