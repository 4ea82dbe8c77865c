"""A cache and a GGUF file for the tests of GGUF files."""

import pytest


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache for each test."""
    monkeypatch.setenv("E2LLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gguf"


@pytest.fixture
def file(tmp_path):
    """A tiny decoder in a GGUF file, alone in its folder."""
    from gguf_files import write_gguf

    (tmp_path / "weights").mkdir()
    return write_gguf(tmp_path / "weights" / "tiny.gguf")
