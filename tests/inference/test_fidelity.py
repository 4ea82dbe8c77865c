"""Fidelity: the measure against its formula, what counts as a number or a name, and the views."""

import json
import math
from dataclasses import replace

import pytest
import torch

from e2llm.errors import ContextOverflowError, E2LLMError
from e2llm.inference.dial import Level
from e2llm.inference.fidelity import (
    ChunkFidelity,
    FidelityReport,
    draw_fidelity,
    find_names,
    find_numbers,
    heat_strip,
    measure_fidelity,
    share_kept,
)
from e2llm.prompts import UNDERSTANDING_PROMPT


def measure(engine, content, **options):
    level = Level([2] * len(content.chunks), soft_tokens=2)
    return measure_fidelity(engine.reader, content, level, progress=False, **options)


@torch.inference_mode()
def written_out(engine, text, chunk_embeds):
    """Log-probability of each token of a text, from the model's whole logits; the end token left out."""
    chunks = [] if chunk_embeds is None else [text]
    sample = engine.processor.lay_out(chunks, UNDERSTANDING_PROMPT, text, num_soft_tokens=2)
    ids = torch.tensor([sample.input_ids])
    extra = {} if chunk_embeds is None else {"chunk_embeds": chunk_embeds.flatten(0, 1)}
    logits = engine.model(input_ids=ids, attention_mask=torch.ones_like(ids), **extra).logits[0].double()
    log_probabilities = logits.log_softmax(-1)
    places = [place for place, label in enumerate(sample.labels) if label != -100]
    places = places[: len(places) - len(engine.processor.template.after_answer)]
    return [log_probabilities[place - 1, sample.input_ids[place]].item() for place in places]


def one(score=0.5, chunk=0, **options):
    values = {
        "source": "text",
        "start": 0,
        "end": 9,
        "num_tokens": 3,
        "log_probability": math.log(score),
        "baseline_log_probability": -4.0,
        "token_accuracy": 0.5,
        "numbers_kept": 1.0,
        "names_kept": None,
    }
    return ChunkFidelity(chunk, **{**values, **options})


def test_each_chunk_equals_the_written_out_formula(engine, context):
    report = measure(engine, context.content)
    for row, chunk in zip(report.chunks, context.chunks, strict=True):
        given = written_out(engine, chunk.text, context.kept[[row.chunk], :2])
        without = written_out(engine, chunk.text, None)
        assert row.num_tokens == len(given)
        assert row.log_probability == pytest.approx(sum(given) / len(given), abs=1e-4)
        assert row.baseline_log_probability == pytest.approx(sum(without) / len(without), abs=1e-4)


def test_result_does_not_depend_on_the_batches(engine, context):
    together, alone = (
        measure(engine, context.content, batch_tokens=100_000),
        measure(engine, context.content, batch_tokens=1),
    )
    for left, right in zip(together.chunks, alone.chunks, strict=True):
        assert left.log_probability == pytest.approx(right.log_probability, abs=1e-4)
        assert left.token_accuracy == right.token_accuracy


def test_without_soft_tokens_nothing_of_the_chunk_reaches_the_decoder(engine, context):
    report = measure(engine, context.content)
    read = replace(context.content.read, rows=[torch.zeros_like(rows) for rows in context.content.read.rows])
    blank = measure(engine, replace(context.content, read=read))
    for left, right in zip(report.chunks, blank.chunks, strict=True):
        assert left.baseline_log_probability == right.baseline_log_probability
        assert left.log_probability != right.log_probability


def test_engine_measures_the_chunks_that_are_named(engine, context):
    report = engine.fidelity(context, soft_tokens=2, chunks=[3, 1], progress=False)
    whole = measure(engine, context.content)
    assert [row.chunk for row in report.chunks] == [3, 1]
    assert report.chunks[0].log_probability == pytest.approx(whole.chunks[3].log_probability, abs=1e-4)
    with pytest.raises(E2LLMError):
        engine.fidelity(context, chunks=[99])


def test_scores_lie_between_0_and_1(engine, context):
    for row in measure(engine, context.content).chunks:
        assert 0 < row.score < 1
        assert row.score == pytest.approx(math.exp(row.log_probability))
        assert row.gain == row.log_probability - row.baseline_log_probability


def test_a_decoder_that_knows_the_text_scores_higher(engine, monkeypatch):
    context = engine.read("Then Mira counted 7 boats.", progress=False)
    random = measure(engine, context.content).chunks[0]
    forward = engine.model.forward

    def rigged(**inputs):
        targets = inputs["labels"][:, 1:]
        targets = targets[targets != -100]
        output = forward(**inputs)
        if "chunk_embeds" in inputs:
            output.logits = torch.nn.functional.one_hot(targets, output.logits.shape[-1]).float()
            output.token_losses = torch.full(targets.shape, 0.01)
        return output

    monkeypatch.setattr(engine.model, "forward", rigged)
    row = measure(engine, context.content).chunks[0]
    assert row.score == pytest.approx(math.exp(-0.01))
    assert row.score > random.score
    assert (row.token_accuracy, row.numbers_kept, row.names_kept) == (1, 1, 1)


def test_a_chunk_longer_than_the_window_is_an_error_that_names_it(engine, context, monkeypatch):
    monkeypatch.setattr(engine.model.config.text_config, "max_position_embeddings", 16)
    with pytest.raises(
        ContextOverflowError, match=r"chunk 0 .* window has 16; read the context with smaller"
    ):
        measure(engine, context.content)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("at 9:30 on 1908-06-01", ["9:30", "1908-06-01"]),
        ("1,000.5 and 7.", ["1,000.5", "7"]),
        ("B52, x_1 and none", []),
    ],
)
def test_numbers_are_whole_and_no_part_of_an_identifier(text, numbers):
    assert [text[start:end] for start, end in find_numbers(text)] == numbers


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Then Anne saw Mr. Darcy. She left.", ["Anne", "Mr", "Darcy"]),
        ("I'm sure that I am.", []),
        ("“Oh,” she said. 'It is Anne.' (He left.)  They met Émile.", ["Anne", "Émile"]),
        (
            "use max_size, MAX_SIZE, B52, camelCase of NASA",
            ["max_size", "MAX_SIZE", "B52", "camelCase", "NASA"],
        ),
        ("one Marilla Cuthbert-Barry\nLine", ["Marilla", "Cuthbert-Barry"]),
        ("the 2nd of 1908", []),
    ],
)
def test_names_follow_the_rule(text, names):
    assert [text[start:end] for start, end in find_names(text)] == names


def test_a_piece_is_kept_if_every_token_of_it_is_the_first_choice():
    spans = [(0, 2), (2, 4), (4, 6), (6, 8)]
    first = [True, True, True, False]
    assert share_kept([(0, 4), (5, 7)], spans, first) == 0.5
    assert share_kept([], spans, first) is None
    assert share_kept([(0, 4)], None, first) is None


def test_tokens_that_only_touch_a_piece_do_not_count():
    assert share_kept([(2, 4)], [(0, 2), (2, 4), (4, 6)], [False, True, False]) == 1.0


def test_a_text_with_a_control_token_has_a_score_but_no_shares(engine):
    context = engine.read("Then Mira wrote </s> 7 times.", progress=False)
    row = measure(engine, context.content).chunks[0]
    assert 0 < row.score < 1
    assert row.numbers_kept is None or 0 <= row.numbers_kept <= 1


def test_report_comes_back_from_json():
    report = FidelityReport([one(0.25), one(0.75, chunk=1)], soft_tokens=2)
    loaded = json.loads(json.dumps(report.to_dict()))
    assert loaded == report.to_dict()
    assert loaded["mean_score"] == pytest.approx(0.5)
    assert loaded["chunks"][1]["score"] == pytest.approx(0.75)


def test_worst_chunks_come_lowest_first():
    report = FidelityReport([one(0.5), one(0.1, chunk=1), one(0.3, chunk=2)], soft_tokens=2)
    assert [row.chunk for row in report.worst(2)] == [1, 2]


def test_strip_has_as_many_cells_as_asked_and_averages():
    assert heat_strip([0.0, 0.5, 1.0], 80) == "▁▅█"
    assert heat_strip([0.0, 1.0, 1.0, 1.0], 2) == "▅█"
    assert len(heat_strip([0.3] * 1000, 70)) == 70
    assert heat_strip([], 10) == ""


def test_coloured_strip_ends_its_colour():
    assert heat_strip([0.0, 1.0], 2, colour=True) == "\x1b[38;5;196m▁\x1b[38;5;40m█\x1b[0m"


def test_picture_is_a_png(tmp_path):
    pytest.importorskip("matplotlib")
    file = tmp_path / "new" / "fidelity.png"
    draw_fidelity(FidelityReport([one(0.5), one(0.9, chunk=1)], 2), file, "smol")
    assert file.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert [item.name for item in file.parent.iterdir()] == ["fidelity.png"]
