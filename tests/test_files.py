"""A file is replaced whole or stays as it was."""

import os

import pytest

from e2llm import files
from e2llm.files import write_atomically


def test_a_crash_while_writing_keeps_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "s.json"
    write_atomically(file, b"old")

    def crash(_handle):
        raise OSError("no space left on device")

    monkeypatch.setattr(files.os, "fsync", crash)
    with pytest.raises(OSError, match="no space"):
        write_atomically(file, b"new")
    assert (file.read_bytes(), os.listdir(tmp_path)) == (b"old", ["s.json"])


def test_a_new_file_has_the_permissions_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "deep" / "s.json", b"new")
    finally:
        os.umask(before)
    assert (tmp_path / "deep" / "s.json").stat().st_mode & 0o777 == 0o640
