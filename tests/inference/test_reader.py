"""Equalities of reading: whatever shares a pass, a chunk's numbers are the same up to rounding."""

import pytest
import torch

from e2llm import Engine
from e2llm.inference.reader import ChunkReader
from tiny_models import TEXT, tiny_model, tiny_processor

LINES = [f"Line {i} has {'very ' * (i % 6)}old words." for i in range(40)] + ["Hi.", "a", "b c"] * 3


OPTIONS = {
    "attention": {"adapter": "attention", "max_soft_tokens": 4},
    "mlp": {"adapter": "mlp", "max_soft_tokens": 1},
    "pooling": {"adapter": "pooling", "encoder_layers": [0, 2], "finest_rate": 2},
    "pooling-1": {"adapter": "pooling", "encoder_layers": [0, 2], "finest_rate": 1},
}


@pytest.fixture(params=list(OPTIONS), scope="module")
def reader(request):
    return ChunkReader(tiny_model(**OPTIONS[request.param]).eval(), tiny_processor())


def assert_near(one, other, reader):
    torch.testing.assert_close(one.kept, other.kept, **near(reader))
    assert torch.equal(one.num_tokens, other.num_tokens)
    torch.testing.assert_close(one.vectors, other.vectors, atol=1e-5, rtol=1e-5)


def near(reader):
    """How far what is kept may be from another reading, given its precision."""
    return {"atol": 1e-5, "rtol": 2**-9 if reader.dtype == torch.float16 else 1e-5}


def test_a_chunk_read_alone_is_the_chunk_read_with_others(reader):
    together = reader.read(LINES, progress=False)
    for index in (0, 3, 17, 39, 40, 41, 48):
        alone, expected = reader.read([LINES[index]], progress=False), reader.empty(1)
        expected.put([0], together, [index])
        assert_near(alone, expected, reader)


def test_the_size_of_a_pass_and_the_order_change_nothing(reader, monkeypatch):
    together = reader.read(LINES, progress=False)
    monkeypatch.setattr(reader.model.config, "encoder_batch_tokens", 60)
    seen = []
    backwards = reader.read(LINES[::-1], progress=False, on_read=lambda places, _: seen.append(len(places)))
    assert len(seen) > 5
    assert sum(seen) == len(LINES)
    expected = reader.empty(len(LINES))
    expected.put(range(len(LINES)), together, range(len(LINES))[::-1])
    assert_near(backwards, expected, reader)


def test_soft_tokens_and_vectors_are_those_of_the_plain_road(reader):
    model, processor = reader.model, reader.processor
    read = reader.read(LINES, progress=False)
    inputs = processor.encode_chunk_texts(LINES)
    with torch.no_grad():
        expected = model.encode_chunks(**inputs)
        _, states = model.encode_layers(**inputs)
    mask = inputs["chunk_attention_mask"].unsqueeze(-1)
    torch.testing.assert_close(read.kept, expected.to(reader.dtype), **near(reader))
    mean = (states * mask).sum(1) / mask.sum(1)
    torch.testing.assert_close(read.vectors, mean, atol=1e-4, rtol=1e-4)


def test_nothing_to_read_is_nothing(reader):
    assert reader.read([], progress=False).kept.shape[0] == 0


def test_a_bar_shows_tokens_per_second(reader, capsys):
    reader.read(LINES * 9, progress=True)
    assert "tokens/s" in capsys.readouterr().err


def test_values_that_are_not_finite_are_refused(monkeypatch):
    engine = Engine(tiny_model(), tiny_processor())
    with torch.no_grad():
        next(engine.model.chunk_encoder.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN or infinity"):
        engine.read(TEXT, progress=False)
