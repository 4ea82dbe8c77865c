"""A recipe with its parts and data replaced by tiny ones, which shows in seconds whether it would run.

The types of the encoder and the decoder stay those of the recipe, and so does everything that says what
trains and how; sizes, steps and records are small.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast

from e2llm.modeling.parts import quiet_loading
from e2llm.records import Record, read_records, write_records
from e2llm.training.known_parts import part_config
from e2llm.training.schema import DataFile, Recipe
from e2llm.training.tokenizer import train_tokenizer

NUM_RECORDS = 12
MAX_CONTEXT_CHARS = 3000
_WIDTH, _LAYERS, _HEADS, _VOCABULARY = 64, 2, 4, 512
_WINDOW = 32_768  # a tiny tokenizer makes more tokens of a text than the real one
_STORY = (
    "The harbour lights went out at nine. Mira counted the boats again, and there were seven of them. "
    "Nobody had told her that the key was under the blue stone. She found it there in the morning. "
)


def made_up_records() -> list[Record]:
    """Records with a question whose answer stands at a known place of the context."""
    records = []
    for number in range(NUM_RECORDS):
        fact = f"The number of boat {number} is {1000 + 7 * number}. "
        before = f"Harbour {number}. {_STORY * (1 + number % 4)}"
        evidence = ((len(before), len(before) + len(fact)),)
        context = f"{before}{fact}{_STORY * 4}"
        question = f"Which number has boat {number}?"
        records.append(Record(context, question, str(1000 + 7 * number), evidence=evidence))
    return records


def first_records(file: DataFile) -> list[Record]:
    """The beginning of a data file, its contexts cut short; made-up records where it is not there."""
    if not Path(file.path).is_file():
        return made_up_records()
    records: list[Record] = []
    for record in read_records(file.path):
        size = MAX_CONTEXT_CHARS
        evidence = tuple(span for span in record.evidence if span[1] <= size)
        context, prompt, answer = record.context[:size], record.prompt[:500], record.answer[:500]
        if context.strip() and bool(prompt.strip()) == bool(answer.strip()):
            records.append(Record(context, prompt, answer, evidence=evidence))
        if len(records) == NUM_RECORDS:
            break
    return records or made_up_records()


def shrink(recipes: Sequence[Recipe], folder: Path) -> list[Recipe]:
    """Tiny copies of a recipe's stages that run in a folder of their own.

    Args:
        recipes: The resolved stages, in order.
        folder: An empty folder for parts, data and runs.

    Returns:
        One tiny recipe per stage; a stage that starts from the one before still does. Where `init_from` of
        the first names a checkpoint, the tiny run starts from new parts.

    Raises:
        E2LLMError: If the dimensions of a part are not known.
    """
    files = [file for recipe in recipes for file in recipe.data.train]
    texts = [record.context for file in files for record in first_records(file)]
    tiny: list[Recipe] = []
    for number, recipe in enumerate(recipes):
        content = recipe.model_dump()
        content["output"] = str(folder / "run")
        content["data"] = _tiny_data(recipe, folder / f"data-{number}")
        content["objectives"]["distillation"]["teacher"] = None  # it is a model, of which there is none here
        content["train"].update(
            steps=1, batch_size=2, gradient_accumulation=1, precision="fp32", num_threads=None,
            dataloader_workers=0, log_every_steps=1, evaluate_every_steps=1, evaluate_samples=2,
            save_every_steps=1, compile=False, track="none", parallel="ddp", encoder_state_store=None,
        )  # fmt: skip
        content["encoder"].update(source=_encoder(recipe, folder, texts), revision=None, batch_tokens=2048)
        if recipe.decoder.new is not None:
            content["decoder"]["new"].update(
                hidden_size=_width(recipe), num_layers=_LAYERS, num_heads=_HEADS,
                intermediate_size=2 * _WIDTH, vocab_size=_VOCABULARY, window=_WINDOW,
                tokenizer_sample_chars=100_000,
            )  # fmt: skip
        else:
            source = _decoder(recipe, folder, texts)
            content["decoder"].update(source=source, revision=None, dtype="float32")
        content["decoder"]["keep_layers"] = []  # the tiny decoder has few
        content["objectives"]["reasoning"]["text_budgets"] = []  # too short for as many tokens, as well
        content["init_from"] = str(tiny[-1].folder / "final") if tiny else None
        finals = {str(done.folder / "final"): item.folder for done, item in zip(recipes, tiny, strict=False)}
        average = finals.get(recipe.average_with or "")
        content["average_with"] = None if average is None else str(average / "final")
        if not tiny:
            content["adapter"]["reset"] = False
            if recipe.init_from and recipe.decoder.new is not None:
                content["decoder"]["mode"] = "full"
        tiny.append(Recipe.model_validate(content))
    return tiny


def _width(recipe: Recipe) -> int:
    """A width that both the tiny parts' heads and the adapter's divide."""
    heads = recipe.adapter.num_heads
    return _WIDTH if _WIDTH % heads == 0 else 16 * heads


def _tiny_data(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """The recipe's data section over the first records of its files; what is held out is read as well."""
    data = recipe.data.model_dump()
    sides = {"train": recipe.data.train, "validation": recipe.data.validation or recipe.data.train}
    for side, files in sides.items():
        data[side] = []
        for number, file in enumerate(files):
            path = folder / f"{side}-{number}.jsonl"
            # No context may stand on both sides, and where nothing is held out, all of them would.
            records = [
                replace(item, context=f"{item.context}\n{side} {number}") for item in first_records(file)
            ]
            write_records(path, records)
            data[side].append({**file.model_dump(), "path": os.fspath(path), "limit": None})
    return data


def tiny_config(config: Any, width: int, vocabulary: int, window: int) -> Any:
    """A configuration of the same type, two layers deep."""
    plain = AutoConfig.for_model(config.model_type)
    groups = getattr(config, "num_attention_heads", 1) // (getattr(config, "num_key_value_heads", None) or 1)
    wanted = {
        "hidden_size": width,
        "embedding_size": width,
        "word_embed_proj_dim": width,
        "intermediate_size": 2 * width,
        "ffn_dim": 2 * width,
        "hidden_dim": 2 * width,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": 2 if groups > 1 else _HEADS,
        "head_dim": width // _HEADS,
        "vocab_size": vocabulary,
        "max_position_embeddings": window,
    }
    settings = {name: value for name, value in wanted.items() if hasattr(plain, name)}
    for name in ("tie_word_embeddings", "hidden_act", "position_embedding_type"):
        if hasattr(plain, name) and hasattr(config, name):
            settings[name] = getattr(config, name)
    ids = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1}
    return AutoConfig.for_model(config.model_type, **settings, **ids)


def _decoder(recipe: Recipe, folder: Path, texts: list[str]) -> str:
    """The folder of a tiny decoder of the recipe's type, with a tokenizer learned from the texts."""
    name = str(recipe.decoder.source)
    target = folder / "parts" / f"decoder-{Path(name).name}"
    if not target.is_dir():
        tokenizer = train_tokenizer(texts, _VOCABULARY, _WINDOW)
        config = tiny_config(
            part_config("decoder", name, recipe.decoder.revision), _width(recipe), _VOCABULARY, _WINDOW
        )
        tokenizer.save_pretrained(target)
        torch.manual_seed(recipe.seed)
        with quiet_loading():
            AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(target)
    return str(target)


def _encoder(recipe: Recipe, folder: Path, texts: list[str]) -> str:
    """The folder of a tiny encoder of the recipe's type, with a tokenizer learned from the texts."""
    name = recipe.encoder.source
    target = folder / "parts" / f"encoder-{Path(name).name}"
    if not target.is_dir():
        real = part_config("encoder", name, recipe.encoder.revision)
        window = getattr(real, "max_position_embeddings", None) or 512
        config = tiny_config(real, _WIDTH, _VOCABULARY, window)
        _word_pieces(texts, window).save_pretrained(target)
        torch.manual_seed(recipe.seed)
        with quiet_loading():
            AutoModel.from_config(config, dtype=torch.float32).save_pretrained(target)
    return str(target)


def _word_pieces(texts: list[str], window: int) -> PreTrainedTokenizerFast:
    """A tokenizer of the shape that most encoders have."""
    special = ["[PAD]", "[SEP]", "[CLS]", "[UNK]"]
    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=_VOCABULARY, special_tokens=special, limit_alphabet=150, show_progress=False
    )
    core.train_from_iterator(texts, trainer)
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="[PAD]",
        sep_token="[SEP]",
        cls_token="[CLS]",
        unk_token="[UNK]",
        model_max_length=window,
    )
