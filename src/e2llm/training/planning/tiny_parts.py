"""A recipe with its parts and data replaced by tiny ones, which shows in seconds whether it would run.

The model types of encoder and decoder stay those of the recipe if their config.json is on this machine.
Everything that says what trains and how stays as well; sizes, steps and records are small.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    BertConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

from e2llm.modeling.checkpoints.parts import reject_remote_code
from e2llm.modeling.checkpoints.reporting import quiet_loading
from e2llm.modeling.checkpoints.sources import resolve_source
from e2llm.modeling.configuration import E2LLMConfig
from e2llm.records import Record, read_records, write_records
from e2llm.training.recipes.schema import FINAL_FOLDER, Recipe, ValidationFile

NUM_RECORDS = 12
MAX_CONTEXT_CHARS = 3000
_WIDTH, _LAYERS, _HEADS, _VOCABULARY = 64, 2, 4, 512
_WINDOW = 32_768  # a tiny tokenizer makes more tokens of a text than the real one
_STORY = (
    "The harbour lights went out at nine. Mira counted the boats again, and there were seven of them. "
    "Nobody had told her that the key was under the blue stone. She found it there in the morning. "
)


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
        One tiny recipe per stage; a stage that starts from the one before still does. If `init_from` of the
        first names a checkpoint, the tiny run starts from new parts.
    """
    files = [file for recipe in recipes for file in recipe.data.train]
    texts = [record.context for file in files for record in beginning(file)]
    tiny: list[Recipe] = []
    for number, recipe in enumerate(recipes):
        content = recipe.model_dump()
        content["output"] = str(folder / "run")
        content["data"] = _tiny_data(recipe, folder / f"data-{number}")
        content["objectives"]["distillation"]["teacher"] = None  # a model, which is not here
        content["objectives"]["reasoning"]["text_budgets"] = []  # too short for that many tokens
        content["train"].update(
            steps=1, batch_size=2, gradient_accumulation=1, precision="fp32", num_threads=None,
            dataloader_workers=0, log_every_steps=1, evaluate_every_steps=1, evaluate_samples=2,
            save_every_steps=1, parallel="ddp",
        )  # fmt: skip
        content["encoder"].update(source=_part(recipe, "encoder", folder, texts), batch_tokens=2048)
        if content["encoder"]["layers"]:
            content["encoder"]["layers"] = [_LAYERS]
        content["decoder"].update(source=_part(recipe, "decoder", folder, texts), dtype="float32")
        content["init_from"] = str(tiny[-1].folder / FINAL_FOLDER) if tiny else None
        tiny.append(Recipe.model_validate(content))
    return tiny


def _tiny_data(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """The recipe's data section over the first records of its files; what is held out is read as well."""
    data = recipe.data.model_dump()
    sides = {"train": recipe.data.train, "validation": recipe.data.validation or recipe.data.train}
    for side, files in sides.items():
        data[side] = []
        for number, file in enumerate(files):
            path = folder / f"{side}-{number}.jsonl"
            # No context may be on both sides, and without held-out records all of them would be.
            records = [replace(item, context=f"{item.context}\n{side} {number}") for item in beginning(file)]
            write_records(path, records)
            data[side].append({"path": os.fspath(path), "objectives": file.objectives})
    return data


def beginning(file: ValidationFile) -> list[Record]:
    """Return the first records of a data file, their contexts cut short; made-up ones without the file."""
    records: list[Record] = []
    for record in read_records(file.path) if Path(file.path).is_file() else ():
        size = MAX_CONTEXT_CHARS
        evidence = tuple(span for span in record.evidence if span[1] <= size)
        context, prompt, answer = record.context[:size], record.prompt[:500], record.answer[:500]
        if context.strip() and bool(prompt.strip()) == bool(answer.strip()):
            records.append(Record(context, prompt, answer, evidence=evidence))
        if len(records) == NUM_RECORDS:
            break
    return records or made_up_records()


def made_up_records() -> list[Record]:
    """Return records with a question whose answer is at a known place of the context."""
    records = []
    for number in range(NUM_RECORDS):
        fact = f"The number of boat {number} is {1000 + 7 * number}. "
        before = f"Harbour {number}. {_STORY * (1 + number % 4)}"
        evidence = ((len(before), len(before) + len(fact)),)
        context = f"{before}{fact}{_STORY * 4}"
        question = f"Which number has boat {number}?"
        records.append(Record(context, question, str(1000 + 7 * number), evidence=evidence))
    return records


def _part(recipe: Recipe, part: str, folder: Path, texts: list[str]) -> str:
    """The folder of a tiny encoder or decoder of the recipe's type, with a tokenizer of the texts."""
    name = str(getattr(recipe, part).source)
    target = folder / "parts" / f"{part}-{Path(name).name}"
    if not target.is_dir():
        real = part_config(part, name) or (BertConfig() if part == "encoder" else LlamaConfig())
        window = getattr(real, "max_position_embeddings", 512) if part == "encoder" else _WINDOW
        config = tiny_config(real, window)
        _tokenizer(texts, window).save_pretrained(target)
        torch.manual_seed(recipe.seed)
        kind = AutoModel if part == "encoder" else AutoModelForCausalLM
        with quiet_loading():
            kind.from_config(config, dtype=torch.float32).save_pretrained(target)
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


def _tokenizer(texts: list[str], window: int) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer, for the encoder as well."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY - 1,  # one stays free for the placeholder
        special_tokens=["<pad>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="</s>", model_max_length=window
    )
