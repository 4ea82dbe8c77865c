"""Bad files: one sentence each."""

import io
import os
import socket
import warnings
import zipfile
from pathlib import Path

import pytest
from made_files import made_docx, made_epub, made_pdf, made_pptx, made_xlsx, made_zip

from e2llm.documents import iter_documents, load_documents, office, read_bytes, read_stream
from e2llm.errors import E2LLMError, E2LLMWarning, MissingExtraError
from e2llm.file_bytes import open_file

OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100)
DOCX = made_docx(lambda file: file.add_paragraph("One boat."))
CORRUPT_DOCX = made_zip({"word/document.xml": "<no", "[Content_Types].xml": "<no"})


def with_encryption_flags(data):
    """The archive with every member marked as encrypted."""
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        parts = data.split(signature)
        data = signature.join(
            [parts[0], *(item[: place - 4] + b"\x01" + item[place - 3 :] for item in parts[1:])]
        )
    return data


@pytest.mark.parametrize(
    ("data", "name", "words"),
    [
        (
            made_pdf(["", ""]),
            "scan.pdf",
            r"has 2 pages and no text, as a scan; recognize",
        ),
        (made_pdf(["One."], "secret"), "a.pdf", "the PDF file is encrypted; save it without a password"),
        (made_pdf(["One."])[:60], "a.pdf", "the file is damaged, or not a PDF file"),
        (b"%PDF-1.7\n" + bytes(range(256)), "a.pdf", "the file is damaged, or not a PDF file"),
        (DOCX[:-40], "a.docx", "the file is damaged, or not a ZIP archive"),
        (DOCX[:200] + b"?" * 50 + DOCX[250:], "a.docx", "the file is damaged, or not a ZIP archive"),
        (CORRUPT_DOCX, "a.docx", "the file is damaged, or not a Word file"),
        (made_zip({"xl/workbook.xml": "<no"}), "a.xlsx", "the file is damaged, or not an Excel file"),
        (made_zip({"ppt/presentation.xml": ""}), "a.pptx", "the file is damaged, or not a PowerPoint file"),
        (made_zip({"META-INF/container.xml": "<a/>"}), "a.epub", "the file is damaged, or not an EPUB book"),
        (with_encryption_flags(made_zip({"a.txt": "x"})), "a.zip", "the file is encrypted"),
        (
            OLE + "EncryptedPackage".encode("utf-16-le"),
            "a.docx",
            "is an encrypted Office file; save it without",
        ),
        (OLE, "a.doc", r"is an old Office file; save it as \.docx"),
        (made_zip({"a.txt": "x"}), "a.zip", "is a ZIP archive; unpack it"),
        (made_zip({"a.txt": "x"}), "a.docx", "is a ZIP archive; unpack it"),
        (b"\x89PNG\r\n\x1a\n\0", "a.txt", r"is a picture \(PNG\); a binary file without text; recognize"),
        (b"GIF89a\1", "photo", r"is a picture \(GIF\); a binary file"),
        (b"\x1f\x8b\x08", "a.txt.gz", r"is an archive \(gzip\); unpack it"),
        (b"%!PS-Adobe-3.0\n(One boat.) show", "a.txt", "is a PostScript file; convert it to PDF"),
        (
            made_zip({"mimetype": "application/vnd.oasis.opendocument.text"}),
            "a",
            "is an OpenDocument file; save",
        ),
        (made_zip({"xl/workbook.bin": "x"}), "a.xlsx", "is a binary Excel file; save it as .xlsx"),
        (b"a\0b", "a.txt", "contains zero bytes, so it is a binary file"),
        (bytes(range(256)) * 4, "a.txt", "contains zero bytes, so it is a binary file"),
        (b"", "a.pdf", "the file is empty"),
        (b" \n\t", "a.txt", "the file is empty"),
        (made_docx(lambda file: None), "a.docx", "the file is empty; there is no text"),
        (made_pptx([("", "")]), "a.pptx", "the file is empty; there is no text"),
        (made_xlsx({"S": []}), "a.xlsx", "the file is empty; there is no text"),
        (b"\xef\xbb\xbf", "a.txt", "the file is empty"),
        ("Привет".encode("cp1251"), "a.txt", "byte 0 is not valid utf-8, and other encodings cannot be told"),
        ("こんにちは".encode("shift-jis"), "a.txt", "other encodings cannot be told"),
        ("一个盒子".encode("gbk"), "a.txt", "other encodings cannot be told"),
        ("Zażółć gęślą jaźń".encode("cp1250"), "a.txt", "other encodings cannot be told"),
        ("příliš žluťoučký kůň".encode("cp1250"), "a.txt", "other encodings cannot be told"),
        (b"\xef\xbb\xbfcaf\xe9", "a.txt", "begins as utf-8 and is not valid throughout"),
        (b"\xff\xfea", "a.txt", "begins as utf-16 and is not valid throughout"),
        (b"no times here", "a.srt", "no line has times such as"),
        (b"no mail", "a.mbox", "no line begins with 'From '"),
        (b"{}", "a.ipynb", "the file is damaged, or not a Jupyter notebook"),
        (b"{", "a.ipynb", "the file is damaged, or not a Jupyter notebook"),
    ],
)
def test_a_bad_file_is_one_sentence_that_names_it(data, name, words):
    with pytest.raises(E2LLMError, match=words) as error:
        read_bytes(data, name)
    assert str(error.value).startswith(f"{name}: ")
    assert "\n" not in str(error.value)


def test_a_book_with_encrypted_chapters_is_refused():
    locked = {"META-INF/encryption.xml": '<CipherReference URI="OEBPS/c0.xhtml"/>'}
    with pytest.raises(E2LLMError, match=r"a\.epub: the book is encrypted \(DRM\)"):
        read_bytes(made_epub(["<p>Text."], locked), "a.epub")
    fonts = {"META-INF/encryption.xml": '<CipherReference URI="OEBPS/font.otf"/>'}
    assert "Text." in read_bytes(made_epub(["<p>Text."], fonts), "a.epub").text


def test_what_is_packed_is_counted_while_it_is_read():
    bomb = made_zip({"word/document.xml": "x" * 3_000_000})
    assert len(bomb) < 10_000
    with pytest.raises(E2LLMError, match=r"bomb\.docx: unpacked, it has more than 2 MB"):
        read_bytes(bomb, "bomb.docx", limit=2_000_000)


def test_a_member_that_states_a_smaller_size_is_refused_all_the_same():
    bomb = made_zip({"a.xml": "x" * 3_000_000}).replace((3_000_000).to_bytes(4, "little"), b"\x0a\0\0\0")
    assert zipfile.is_zipfile(io.BytesIO(bomb))
    with pytest.raises(E2LLMError, match="damaged"):
        read_bytes(bomb, "bomb.docx", limit=2_000_000)


def test_a_file_of_more_than_the_limit_is_refused(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("x" * 11)
    monkeypatch.setenv("E2LLM_MAX_BYTES", "10")
    with pytest.raises(E2LLMError, match=r"a\.txt: the file has more than 10 bytes, the most that is read"):
        load_documents([tmp_path / "a.txt"])
    with open("/dev/zero", "rb") as endless, pytest.raises(E2LLMError, match="standard input: the file has"):
        read_stream(endless, "standard input", [])
    monkeypatch.setenv("E2LLM_MAX_BYTES", "1 GB")
    with pytest.raises(E2LLMError, match="E2LLM_MAX_BYTES is '1 GB'; set it to a whole number of bytes"):
        load_documents([tmp_path / "a.txt"])


def test_a_device_a_pipe_and_a_socket_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("socket")
    for name, kind in (
        ("pipe", "pipe"),
        ("socket", "socket"),
        (os.devnull, "device"),
        ("/dev/zero", "device"),
    ):
        with pytest.raises(E2LLMError, match=f"{name}: is a {kind}; name a file, or -"):
            load_documents([name])
    listener.close()


def test_a_file_whose_reading_would_wait_is_refused(tmp_path):
    os.mkfifo(tmp_path / "log")
    with (
        open_file(tmp_path / "log") as stream,
        (tmp_path / "log").open("wb"),
        pytest.raises(E2LLMError, match="log: reading it would wait"),
    ):
        read_stream(stream, "log", [])


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="there is no /proc")
def test_a_file_of_proc_is_read_though_its_size_is_zero():
    assert load_documents(["/proc/version"])[0].text.strip()


@pytest.mark.parametrize(
    ("data", "name", "library"),
    [
        (made_pdf(["One."]), "a.pdf", "pypdf"),
        (DOCX, "a.docx", "python-docx"),
        (made_pptx([("One", "")]), "a.pptx", "python-pptx"),
        (made_xlsx({"S": [["One"]]}), "a.xlsx", "openpyxl"),
        (rb"{\rtf1 One}", "a.rtf", "striprtf"),
    ],
)
def test_a_format_without_its_library_names_the_extra(monkeypatch, data, name, library):
    def missing(module):
        raise ImportError(module)

    monkeypatch.setattr(office.importlib, "import_module", missing)
    words = rf"{library} is not installed; install it with: pip install 'e2llm\[documents\]'"
    with pytest.raises(MissingExtraError, match=words):
        read_bytes(data, name)


def test_a_folder_reads_what_it_can_and_warns_of_the_rest(tmp_path):
    (tmp_path / "a.txt").write_text("One boat.")
    (tmp_path / "b.pdf").write_bytes(made_pdf(["Two boats."]))
    (tmp_path / "scan.pdf").write_bytes(made_pdf([""]))
    (tmp_path / "parts.zip").write_bytes(made_zip({"a.txt": "x"}))
    (tmp_path / "old.txt").write_bytes("Три лодки.".encode("cp1251"))
    (tmp_path / "photo.png").write_bytes(b"\x89PNG\0")
    os.mkfifo(tmp_path / "pipe")
    with pytest.warns(E2LLMWarning) as warned:
        documents = load_documents([tmp_path])
    (told,) = [str(item.message) for item in warned]
    assert told.startswith(f"left out of {tmp_path}: 4 not read ({tmp_path}/")
    assert "photo" not in told  # no text in it
    left_out = []
    assert [*iter_documents([tmp_path], left_out)] == documents
    reasons = {item.name.removeprefix(f"{tmp_path}/"): item.reason for item in left_out}
    assert reasons["photo.png"] == "binary"
    assert reasons["pipe"] == "is a pipe"
    assert reasons["parts.zip"] == "is a ZIP archive; unpack it and name the files"
    assert "byte 0 is not valid utf-8" in reasons["old.txt"]
    assert reasons["scan.pdf"].startswith("the PDF file has 1 page and no text, as a scan")
    assert [item.text.strip() for item in documents] == ["One boat.", "Two boats."]
    (tmp_path / "a.txt").unlink()
    (tmp_path / "b.pdf").unlink()
    with pytest.raises(E2LLMError, match=r"contains no text to read \(left out: 4 not read"):
        load_documents([tmp_path])


def test_a_sound_folder_warns_of_nothing(tmp_path):
    (tmp_path / "b.pdf").write_bytes(made_pdf(["Two boats."]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(load_documents([tmp_path])) == 1
