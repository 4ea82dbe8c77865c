"""A context of the tiny engine, and a watch on what reaches its model."""

from dataclasses import dataclass, field
from typing import Any

import pytest


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
