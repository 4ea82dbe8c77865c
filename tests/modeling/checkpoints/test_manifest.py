import hashlib
import tracemalloc

import pytest

from e2llm.modeling.checkpoints.fingerprint import changed_file, file_hash, list_files


@pytest.fixture
def folder(tmp_path):
    """A folder with a short file, and a longer one in a folder below."""
    (tmp_path / "lora").mkdir()
    (tmp_path / "short").write_bytes(b"abc")
    (tmp_path / "lora" / "long").write_bytes(b"x" * 2000)
    return tmp_path


def listed(folder, **options):
    files = [folder / "short", folder / "lora" / "long"]
    found = list_files(folder, files, **options)
    return found["files"], found["sha256"]


def test_files_are_listed_by_their_place_with_size_and_hash(folder):
    assert listed(folder) == (
        {"lora/long": 2000, "short": 3},
        {
            "lora/long": hashlib.sha256(b"x" * 2000).hexdigest(),
            "short": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        },
    )
    assert changed_file(folder, *listed(folder)) == ""


def test_files_of_the_limit_or_more_are_listed_without_a_hash(folder):
    assert set(listed(folder, max_hashed_bytes=2000)[1]) == {"short"}
    assert set(listed(folder, max_hashed_bytes=2001)[1]) == {"short", "lora/long"}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "lora/long is missing"),
        (b"x" * 1999, "lora/long has 1,999 bytes instead of 2,000"),
        (b"x" * 1999 + b"y", "lora/long has other content than was saved (another SHA-256)"),
    ],
)
def test_a_file_that_was_changed_is_told(folder, content, problem):
    before = listed(folder)
    if content is None:
        (folder / "lora" / "long").unlink()
    else:
        (folder / "lora" / "long").write_bytes(content)
    assert changed_file(folder, *before) == problem


def test_of_a_file_without_a_hash_the_size_is_looked_at(folder):
    sizes, _ = listed(folder)
    (folder / "short").write_bytes(b"xyz")
    assert changed_file(folder, sizes, {}) == ""
    (folder / "short").write_bytes(b"wxyz")
    assert changed_file(folder, sizes, {}) == "short has 4 bytes instead of 3"


def test_sizes_are_looked_at_before_any_file_is_read(folder, monkeypatch):
    before = listed(folder)
    (folder / "short").unlink()
    monkeypatch.setattr(
        "e2llm.modeling.checkpoints.fingerprint.file_hash", lambda file: pytest.fail("it was read")
    )
    assert changed_file(folder, *before) == "short is missing"


def test_a_file_is_hashed_piece_by_piece(tmp_path):
    file = tmp_path / "sparse"
    with file.open("wb") as stream:
        stream.truncate(32 * 2**20)
    tracemalloc.start()
    try:
        found = file_hash(file)
        assert tracemalloc.get_traced_memory()[1] < 2 * 2**20
    finally:
        tracemalloc.stop()
    assert found == hashlib.sha256(bytes(32 * 2**20)).hexdigest()
