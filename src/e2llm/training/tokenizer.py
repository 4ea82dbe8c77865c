"""A byte-level BPE tokenizer for decoders from scratch, learned from the training texts."""

from collections.abc import Iterable
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from e2llm.modeling.placeholders import CHUNK_TOKEN

PAD_TOKEN, END_TOKEN = "<|pad|>", "<|end|>"

_WORDS = Regex(r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")


def train_tokenizer(texts: Iterable[str], vocab_size: int, window: int) -> Any:
    """Learn a tokenizer: words with their space, and one token per digit so that numbers survive exactly.

    Args:
        texts: What to learn from.
        vocab_size: Tokens, special ones and the 256 bytes included.
        window: Positions of the decoder.

    Returns:
        A fast tokenizer with `<|pad|>`, `<|end|>` and the placeholder.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_WORDS, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD_TOKEN, END_TOKEN, CHUNK_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD_TOKEN,
        eos_token=END_TOKEN,
        extra_special_tokens=[CHUNK_TOKEN],
        model_max_length=window,
        clean_up_tokenization_spaces=False,
    )
