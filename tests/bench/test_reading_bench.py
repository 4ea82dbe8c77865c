from e2llm import Engine
from e2llm.bench.reading import measure_edits, measure_lengths
from tiny_models import tiny_model, tiny_processor


def test_lengths_are_measured_from_the_shortest_on():
    result = measure_lengths(Engine(tiny_model(), tiny_processor()), [400, 200])
    first, last = result["rows"]
    assert 180 <= first["context_tokens"] < last["context_tokens"]
    assert result["time_ratio"] == last["total_s"] / first["total_s"]
    assert last["peak_bytes"] >= first["peak_bytes"] > 0


def test_an_edit_encodes_few_of_the_chunks():
    result = measure_edits(Engine(tiny_model(), tiny_processor()), 2000, 3)
    assert result["num_edits"] == 3
    assert 1 <= result["chunks_encoded"]["most"] < result["chunks"] / 2
    assert result["edit_fraction"] == result["edit_s"] / result["read_s"]
