"""Where prose and code are cut."""

import pytest

from chunk_texts import texts_of
from e2llm import chunk_breaks
from e2llm.chunking import split_text


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


def test_a_long_line_that_looks_like_a_comment_is_not_read_again_for_every_chunk(monkeypatch):
    pattern, looked_at = chunk_breaks._ATTACHED_LINE, []

    class Counting:
        def match(self, text, position, stop=None):
            looked_at.append((len(text) if stop is None else stop) - position)
            return pattern.match(text, position, *(() if stop is None else (stop,)))

    monkeypatch.setattr(chunk_breaks, "_ATTACHED_LINE", Counting())
    text = "#fff " * 20_000
    split_text(text, kind="code")
    assert 0 < sum(looked_at) < 3 * len(text)


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
