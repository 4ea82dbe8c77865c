"""Tiny encoder, decoder, records and recipes for the tests of training: two layers, 32 wide, no hub."""

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from e2llm.records import Record, write_records
from e2llm.training.recipe import resolve_data, validate

STORY = (
    "The harbour lights went out at nine. Mira counted the boats again, and there were seven of them. "
    "Nobody had told her that the key was under the blue stone. She found it there in the morning. "
)


def save_encoder(folder, **options):
    """A random BERT whose words are single characters, so that nothing is unknown."""
    torch.manual_seed(1)
    characters = [chr(code) for code in range(33, 127)]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *characters, *(f"##{item}" for item in characters)]
    core = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=core,
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        unk_token="[UNK]",
        model_max_length=600,
    ).save_pretrained(folder)
    shape: dict[str, Any] = {
        "vocab_size": len(pieces),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 600,
        "initializer_range": 0.3,
    }
    BertModel(BertConfig(**{**shape, **options})).save_pretrained(folder)
    return str(folder)


def save_decoder(folder, **options):
    """A random Llama with a byte-level tokenizer and an end token."""
    torch.manual_seed(2)
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        [STORY] * 4,
        trainers.BpeTrainer(
            vocab_size=310,
            special_tokens=["<pad>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", pad_token="<pad>").save_pretrained(
        folder
    )
    shape: dict[str, Any] = {
        "vocab_size": 320,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "initializer_range": 0.1,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "bos_token_id": None,
    }
    LlamaForCausalLM(LlamaConfig(**{**shape, **options})).save_pretrained(folder)
    return str(folder)


def questions(count=12):
    """Records with a question whose answer stands at a known place."""
    records = []
    for number in range(count):
        fact = f"The number of the {number}th boat is {1000 + 7 * number}."
        context = f"{STORY[: 60 + number]} {fact} {STORY}"
        start = context.index(fact)
        records.append(
            Record(
                context,
                f"Which number has the {number}th boat?",
                str(1000 + 7 * number),
                evidence=((start, start + len(fact)),),
                id=f"boat-{number}",
            )
        )
    return records


def texts(count=6):
    """Text-only records."""
    return [
        Record(f"Story {number}. {STORY * (1 + number % 3)}", "", "", id=f"t{number}")
        for number in range(count)
    ]


def recipe_dict(folder, encoder, decoder, /, **sections):
    """A small recipe as a mapping: both objectives on two files in `folder`, all but the encoder trained."""
    content: dict[str, Any] = {
        "name": "tiny",
        "output": str(folder / "run"),
        "seed": 3,
        "encoder": {"source": encoder, "mode": "frozen"},
        "decoder": {"source": decoder, "mode": "full"},
        "adapter": {"max_soft_tokens": 2},
        "chunking": {"chunk_size_chars": 64},
        "data": {
            "train": [{"path": "questions.jsonl"}, {"path": "texts.jsonl"}],
            "validation_fraction": 0.25,
        },
        "objectives": {"understanding": {"window_chunks": [1, 2]}, "soft_tokens": [2, 1]},
        "train": {
            "steps": 4,
            "batch_size": 2,
            "learning_rate": 1e-3,
            "precision": "fp32",
            "log_every_steps": 1,
            "evaluate_every_steps": 2,
            "save_every_steps": 2,
            "evaluate_samples": 2,
        },
    }
    if "output" in sections:
        sections["output"] = str(folder / sections["output"])
    for name, values in sections.items():
        content[name] = {**content.get(name, {}), **values} if isinstance(values, dict) else values
    return content


def make_recipe(folder, encoder, decoder, /, **sections):
    """`recipe_dict`, resolved, with its data files written."""
    write_records(folder / "questions.jsonl", questions())
    write_records(folder / "texts.jsonl", texts())
    recipe = validate(recipe_dict(folder, encoder, decoder, **sections), "test")
    resolve_data(recipe, folder)
    return recipe


def weights(folder):
    """All tensors of a saved model's own files."""
    from safetensors.torch import load_file

    return {
        name: value
        for file in sorted(folder.rglob("*.safetensors"))
        for name, value in load_file(file).items()
    }


def assert_same_weights(one, other):
    """Two checkpoints hold the same numbers under the same names."""
    ours, theirs = weights(one), weights(other)
    assert set(ours) == set(theirs)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
