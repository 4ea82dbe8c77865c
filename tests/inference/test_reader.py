"""Equalities of reading: whatever shares a pass, a chunk's numbers are the same bits."""

import os
import threading

import pytest
import torch

from e2llm import Engine
from e2llm.inference.reader import ChunkReader
from e2llm.modeling.passes import PassRunner
from e2llm.modeling.threads import one_kernel_thread_each
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


def same(one, other, rows=slice(None)):
    return (
        all(map(torch.equal, one.rows[rows], other.rows))
        and torch.equal(one.num_tokens[rows], other.num_tokens)
        and torch.equal(one.vectors[rows], other.vectors)
    )


def near(reader):
    """How far what is kept may be from the plain road, given its precision."""
    return {"atol": 1e-4, "rtol": 2**-9 if reader.dtype == torch.float16 else 1e-4}


def test_a_chunk_read_alone_is_bit_for_bit_the_chunk_read_with_others(reader):
    together = reader.read(LINES, progress=False)
    for index in (0, 3, 17, 39, 40, 41, 48):
        assert same(together, reader.read([LINES[index]], progress=False), slice(index, index + 1))


def test_any_part_and_order_reads_the_same(reader):
    together = reader.read(LINES, progress=False)
    backwards = reader.read(LINES[::-1], progress=False)
    assert same(together, reader.read(LINES[5:19], progress=False), slice(5, 19))
    assert all(map(torch.equal, together.rows, backwards.rows[::-1]))


def test_the_number_of_threads_changes_nothing(reader):
    before = torch.get_num_threads()
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append(reader.read(LINES, progress=False))
    torch.set_num_threads(before)
    assert same(results[0], results[1])
    assert same(results[0], results[2])


def test_without_grouping_the_bits_are_the_same(reader, monkeypatch):
    together = reader.read(LINES, progress=False)
    monkeypatch.setattr(reader._runner, "_may_group", False)
    assert same(together, reader.read(LINES, progress=False))


def test_grouping_is_tried_before_it_is_used(monkeypatch):
    reader = ChunkReader(tiny_model().eval(), tiny_processor())
    sizes = []
    compute = reader._runner.compute

    def unsteady(ids, mask):
        sizes.append(len(ids))
        *others, vectors = compute(ids, mask)
        return *others, vectors + len(ids)  # what shares the pass shows

    monkeypatch.setattr(reader._runner, "compute", unsteady)
    reader.read(LINES, progress=False)
    assert reader._runner._may_group is False
    assert set(sizes[4:]) == {1}  # after the trial, one chunk at a time


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


def test_passes_of_fixed_shapes_give_the_same_up_to_rounding(reader, monkeypatch):
    expected = reader.read(LINES, progress=False)
    monkeypatch.setattr(PassRunner, "_has_fixed_shapes", True)
    shapes = []
    compute = reader._runner.compute
    monkeypatch.setattr(
        reader._runner, "compute", lambda ids, mask: shapes.append(ids.shape) or compute(ids, mask)
    )
    read = reader.read(LINES, progress=False)
    torch.testing.assert_close(read.kept, expected.kept, **near(reader))
    torch.testing.assert_close(read.vectors, expected.vectors, atol=1e-4, rtol=1e-4)
    assert all(rows == 4096 // length and length % 16 == 0 for rows, length in shapes)
    assert same(read, reader.read([LINES[3]], progress=False), slice(3, 4))


def test_nothing_to_read_is_nothing(reader):
    assert reader.read([], progress=False).kept.shape[0] == 0


def test_torchs_threads_are_as_before_also_after_an_error(reader, monkeypatch):
    before = torch.get_num_threads()

    def fail(*args):
        raise RuntimeError("broken")

    monkeypatch.setattr(reader._runner, "compute", fail)
    monkeypatch.setattr(reader._runner, "_may_group", True)
    with pytest.raises(RuntimeError, match="broken"):
        reader.read(LINES, progress=False)
    assert torch.get_num_threads() == before
    seen = []
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert seen == [before]


def test_blocks_of_one_kernel_thread_may_overlap():
    before = torch.get_num_threads()
    with one_kernel_thread_each() as outer:
        with one_kernel_thread_each() as inner:
            assert (outer, inner) == (before, before)
        assert torch.get_num_threads() == before  # this thread keeps its own
    assert torch.get_num_threads() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_threads_are_started_anew_in_a_forked_process(reader):
    reader.read(LINES[:3], progress=False)
    first = reader._runner._threads(1)
    assert reader._runner._threads(1) is first
    reader._runner._pool_owner = (os.getpid() + 1, 1)
    assert reader._runner._threads(1) is not first


def test_a_bar_shows_tokens_per_second(reader, capsys):
    reader.read(LINES * 9, progress=True)
    assert "tokens/s" in capsys.readouterr().err


def test_values_that_are_not_finite_are_refused(monkeypatch):
    engine = Engine(tiny_model(), tiny_processor())
    with torch.no_grad():
        next(engine.model.chunk_encoder.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        engine.read(TEXT, progress=False)
