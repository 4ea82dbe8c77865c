from email.message import EmailMessage

import pytest

from e2llm.data.registry import DATASETS
from e2llm.errors import E2LLMError


def convert(source, **options):
    return list(DATASETS["text"](**options).convert(source, "train"))


def test_a_single_file_of_any_suffix_is_one_text_only_record(tmp_path):
    path = tmp_path / "notes.log"
    path.write_text("Hello.", encoding="utf-8")
    (record,) = convert(path)
    assert (record.context, record.id, record.is_text_only) == ("Hello.", "notes.log", True)


def test_ids_are_paths_inside_the_folder(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c.md").write_text("x")
    (tmp_path / "a.txt").write_text("y")
    assert [record.id for record in convert(tmp_path)] == ["a.txt", "b/c.md"]


def test_hidden_files_and_other_suffixes_are_passed_over(tmp_path):
    (tmp_path / "a.txt").write_text("y")
    (tmp_path / ".hidden.txt").write_text("z")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0")
    assert len(convert(tmp_path)) == 1


def test_a_byte_order_mark_and_windows_line_ends_are_normalized(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffone\r\ntwo".encode())
    assert convert(tmp_path)[0].context == "one\ntwo"


def test_a_wrong_encoding_names_the_file_and_the_byte(tmp_path):
    (tmp_path / "a.txt").write_bytes("caf\xe9".encode("latin-1"))
    with pytest.raises(E2LLMError, match=r"a\.txt: byte 3 is not valid utf-8; save the file as UTF-8"):
        convert(tmp_path, encoding="utf-8")
    assert convert(tmp_path)[0].context == "café"


def test_another_encoding_can_be_named(tmp_path):
    (tmp_path / "a.txt").write_bytes("caf\xe9".encode("latin-1"))
    assert convert(tmp_path, encoding="latin-1")[0].context == "café"


def test_an_unknown_encoding_is_an_error(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(E2LLMError, match="unknown encoding 'klingon'"):
        convert(tmp_path, encoding="klingon")


def test_a_binary_file_is_an_error(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"PK\x03\x04\0\0")
    with pytest.raises(E2LLMError, match="damaged"):
        convert(tmp_path)


def test_documents_are_read_and_attachments_that_are_not_are_counted(tmp_path):
    message = EmailMessage()
    message["Subject"] = "Boats"
    message.set_content("One boat.")
    message.add_attachment(b"\x89PNG", maintype="image", subtype="png", filename="map.png")
    message.add_attachment("Two boats.", filename="notes.txt")
    (tmp_path / "a.eml").write_bytes(message.as_bytes())
    (tmp_path / "page.htm").write_text("<p>Three boats.")
    (tmp_path / "u16.txt").write_bytes("Four boats.".encode("utf-16"))
    (tmp_path / "old.jsonl").write_text("{}")
    converter = DATASETS["text"]()
    records = list(converter.convert(tmp_path, "train"))
    assert {record.id: record.context.strip().split("\n")[-1] for record in records} == {
        "a.eml": "Attachments: map.png, notes.txt",
        "a.eml/notes.txt": "Two boats.",
        "page.htm": "Three boats.",
        "u16.txt": "Four boats.",
    }
    assert converter.skipped == {f"{tmp_path}/a.eml/map.png: binary": 1}


def test_empty_files_are_counted(tmp_path):
    (tmp_path / "a.txt").write_text(" \n")
    (tmp_path / "b.txt").write_text("x")
    converter = DATASETS["text"]()
    assert len(list(converter.convert(tmp_path, "train"))) == 1
    assert converter.skipped == {"empty file": 1}
