"""A tiny model in a folder, a corpus, and what one process makes of it."""

import pytest


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    from tiny_models import tiny_model, tiny_processor

    folder = tmp_path_factory.mktemp("tiny")
    tiny_model().save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Three documents that share most of their chunks."""
    from tiny_models import TEXT

    folder = tmp_path_factory.mktemp("corpus")
    for number in range(3):
        pages = [f"Page {page} of book {number}. {TEXT}" for page in range(20)]
        (folder / f"book{number}.txt").write_text("".join(pages))
    return folder


@pytest.fixture(scope="session")
def entries():
    """Keys and bytes of all entries of a store."""
    import sqlite3
    from contextlib import closing

    def entries(folder):
        with closing(sqlite3.connect(folder / "store.sqlite")) as connection:
            return dict(connection.execute("SELECT key, value FROM entries"))

    return entries


@pytest.fixture(scope="session")
def read_alone(model_folder, corpus, tmp_path_factory):
    """The store that one process fills, and the number of its chunks."""
    from e2llm import ChunkStore, Engine

    folder = tmp_path_factory.mktemp("alone")
    engine = Engine.from_pretrained(model_folder, device="cpu", store=ChunkStore(folder))
    context = engine.read([corpus], progress=False)
    engine.store.close()
    return folder, len(context)
