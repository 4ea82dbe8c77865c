"""One tiny engine for all tests of this folder; tests leave it as they found it."""

from dataclasses import dataclass, field
from typing import Any

import pytest


@pytest.fixture(scope="session")
def engine():
    from e2llm import Engine
    from tiny_models import tiny_model, tiny_processor

    return Engine(tiny_model(), tiny_processor())


@pytest.fixture(scope="session")
def context(engine):
    """The 5 chunks of the tiny text."""
    from tiny_models import TEXT

    return engine.read(TEXT, progress=False)


@dataclass
class Seen:
    """What reached the model's `generate`."""

    inputs: dict[str, Any] = field(default_factory=dict)

    @property
    def ids(self) -> list[int]:
        return self.inputs["input_ids"][0].tolist()


@pytest.fixture
def seen(engine, monkeypatch):
    """Watches `generate` of the engine's model."""
    seen, generate = Seen(), engine.model.generate

    def watch(**kwargs):
        seen.inputs = kwargs
        return generate(**kwargs)

    monkeypatch.setattr(engine.model, "generate", watch)
    return seen
