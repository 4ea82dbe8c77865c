"""Folders that a killed process left behind are removed by the next one; those of a living one are not."""

import pytest
from filelock import FileLock

from e2llm.cli.output_folder import appearing


@pytest.fixture
def left_behind(tmp_path):
    """A temporary folder as `appearing` makes it, without its process."""
    with appearing(tmp_path / "out") as staging:
        name = staging.parent.name
    folder = tmp_path / "models" / name
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "model.safetensors").write_bytes(b"half")
    (folder / "in-use").touch()
    return folder


def write_beside(folder):
    with appearing(folder.parent / "next") as staging:
        (staging / "config.json").write_text("{}")
    assert (folder.parent / "next" / "config.json").is_file()


def test_the_folder_of_a_killed_process_is_removed(left_behind):
    write_beside(left_behind)
    assert [item.name for item in left_behind.parent.iterdir()] == ["next"]


def test_the_folder_of_a_living_process_stays(left_behind):
    with FileLock(left_behind / "in-use"):
        write_beside(left_behind)
    assert (left_behind / "model" / "model.safetensors").is_file()


def test_a_folder_of_someone_else_stays(left_behind):
    (left_behind / "in-use").unlink()
    write_beside(left_behind)
    assert (left_behind / "model" / "model.safetensors").is_file()


def test_nothing_is_left_behind_after_an_error(tmp_path):
    with pytest.raises(ValueError), appearing(tmp_path / "out"):
        raise ValueError
    assert list(tmp_path.iterdir()) == []
