"""Encodings that can be told, and paths told from texts."""

from pathlib import Path

import pytest

from e2llm import ChatSession
from e2llm.documents import Document, documents_of, load_documents, read_bytes
from e2llm.documents.loading import path_of

GERMAN = "Die Möwe fragt: „Süß?“ – 5 € für Äpfel, ÖL und Straße. Das Boot liegt am Ufer.\n" * 3
FRENCH = "L’été où il était à Genève, ça coûtait très cher… « peut-être », dit la mère de Noël.\n" * 3
PORTUGUESE = "As estações do ano não são iguais em todo o país, e as ações de João caíram ontem.\n" * 3


@pytest.mark.parametrize("text", [GERMAN, FRENCH, "A boat.\r\nTwo boats.\rThree."])
@pytest.mark.parametrize(
    "encoding",
    ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"],
)
def test_each_encoding_that_can_be_told_is_read(text, encoding):
    expected = text.replace("\r\n", "\n").replace("\r", "\n")
    assert read_bytes(text.encode(encoding), "a.txt").text == expected


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("text", ["x", "一个盒子在桌子上。\n两个人来了。\n", "Привет, мир.\n"])
def test_utf16_without_its_mark_is_told_from_its_bytes(text, encoding):
    assert read_bytes(text.encode(encoding), "a.txt").text == text


def test_western_text_with_two_accents_in_a_row_is_told():
    assert read_bytes(PORTUGUESE.encode("cp1252"), "a.txt").text == PORTUGUESE


def test_a_path_is_told_from_a_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("From the file.")
    (tmp_path / "my notes").write_text("With a space.")
    assert [item.text for item in documents_of("notes.txt")] == ["From the file."]
    assert [item.text for item in documents_of("my notes")] == ["With a space."]
    assert [item.text for item in documents_of(str(tmp_path))] == ["With a space.", "From the file."]
    assert documents_of(["notes.txt", Document("d", "A document.")])[1].text == "A document."


@pytest.mark.parametrize(
    "text",
    [
        "The key is under the stone.",
        "See report.pdf",
        "and/or",
        "notes.txt\n",
        "x" * 261,
        "/help me with this",
        "",
        "Mira: 7",
    ],
)
def test_any_other_text_is_a_text(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert path_of(text) is None
    assert documents_of(text) == [Document("text", text)]


@pytest.mark.parametrize(
    "text",
    [
        "report.pdf",
        "./x/y.txt",
        "../up",
        "/no/such",
        "~/no-such-file",
        "C:\\x",
        "C:/My files/a.txt",
        "./my book.epub",
        "main.py",
    ],
)
def test_what_looks_like_a_path_and_does_not_exist_is_an_error(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"no such file or folder: .*read_text takes a text literally"
    ):
        documents_of(text)


def test_an_address_is_an_error_that_says_what_to_do():
    words = r"https://boats\.org/a \(addresses are not fetched: save the page as a file\)"
    with pytest.raises(FileNotFoundError, match=words):
        documents_of("https://boats.org/a")
    with pytest.raises(FileNotFoundError, match=words):
        load_documents(["https://boats.org/a"])
    with pytest.raises(FileNotFoundError, match=words):
        load_documents([Path("https://boats.org/a")])  # a path has one slash less


def test_the_old_module_gives_the_same_class_with_a_warning():
    with pytest.warns(DeprecationWarning, match=r"import Document from e2llm\.documents"):
        from e2llm.inference.documents import Document as Old
    assert Old is Document
    with pytest.raises(ImportError, match="Motor"):
        from e2llm.inference.documents import Motor  # noqa: F401


def test_texts_read_at_once_or_one_after_another_have_names_of_their_own(engine, tmp_path):
    (tmp_path / "a.txt").write_text("From a file.")
    names = [item.name for item in documents_of(["One.", tmp_path / "a.txt", "Two."])]
    assert names == ["text 1", str(tmp_path / "a.txt"), "text 3"]
    session = ChatSession(engine)
    for text in ("One boat.", "Two boats."):
        session.add(text)
    session.context.append("Three boats.")
    assert [item.name for item in session.context.documents] == ["text", "text 2", "text 3"]
