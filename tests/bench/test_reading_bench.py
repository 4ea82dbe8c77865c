from e2llm import Engine
from e2llm.bench.decoders import make_text
from e2llm.bench.reading import measure_edits
from tiny_models import tiny_model, tiny_processor


def test_an_edit_encodes_few_of_the_chunks():
    engine = Engine(tiny_model(), tiny_processor())
    text = make_text(engine, 2000)
    result = measure_edits(engine, text, 3)
    assert 1 <= result["edit_chunks"] < len(engine.processor.split(text)) / 2
    assert result["edit_fraction"] == result["edit_s"] / result["read_s"]
