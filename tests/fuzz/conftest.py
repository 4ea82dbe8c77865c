"""No input may take memory out of proportion: watched over each test here."""

import pytest

from e2llm.measuring import peak_resident_bytes

MOST_GROWTH = 700e6


@pytest.fixture(autouse=True)
def bounded_memory():
    """The peak of this process must not grow by more than what loading libraries takes."""
    before = peak_resident_bytes()
    yield
    assert peak_resident_bytes() - before < MOST_GROWTH
