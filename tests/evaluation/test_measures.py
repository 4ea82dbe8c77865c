import json

import pytest
import torch

from e2llm import Engine, Record
from e2llm.errors import ContextOverflowError, E2LLMError
from e2llm.evaluation.measures import (
    EMPTY_CONTEXT,
    NO_SOFT_TOKENS,
    measure_answer,
    measure_model,
    measure_recall,
    measure_restatement,
    usable,
)
from tiny_models import TEXT, tiny_model, tiny_processor

QUESTION = "Where is the key?"
SHORT = TEXT[:96]


@pytest.fixture(scope="module")
def engine():
    return Engine(tiny_model(), tiny_processor())


@pytest.fixture
def records(tmp_path):
    """Writes a records file."""

    def write(*rows, name="records.jsonl"):
        file = tmp_path / name
        file.write_text("".join(json.dumps({"prompt": "", "answer": "", **row}) + "\n" for row in rows))
        return str(file)

    return write


@pytest.fixture
def says(engine, monkeypatch):
    """Makes the engine say a fixed answer."""
    return lambda text: monkeypatch.setattr(engine.processor, "decode_answer", lambda ids: text)


@pytest.mark.parametrize(
    ("answer", "said", "expected"),
    [
        ("12, 34", "12 then 34", 1.0),
        ("12, 34", "only 34", 0.5),
        ("12, 34, and 56", "12 34 56", 1.0),
        ("red and blue", "blue", 0.5),
        ("red, blue and green.", "RED green", 2 / 3),
        ("Alexandria", "alexandria", 1.0),
    ],
)
def test_recall_counts_each_value_of_a_list(engine, says, answer, said, expected):
    context = engine.read(SHORT)
    says(said)
    outcome = measure_recall(engine, Record(SHORT, QUESTION, answer), context, 1)
    assert outcome.scores == {"recall": pytest.approx(expected)}
    assert (outcome.prediction, outcome.reference) == (said, answer)


def test_answers_are_scored_against_the_best_reference(engine, says):
    context = engine.read(SHORT)
    says("seven boats")
    record = Record(SHORT, "How many?", "7", references=("seven boats",))
    assert measure_answer(engine, record, context, 1).scores == {"rouge_l": 1.0, "f1": 1.0}


def test_restatement_is_the_models_loss_on_the_text(engine):
    context = engine.read(SHORT)
    outcome = measure_restatement(engine, Record(SHORT, "", ""), context, 3)
    inputs = engine.processor(
        context=SHORT, prompt="Restate the context.", answer=SHORT.strip(), num_soft_tokens=3
    )
    with torch.no_grad():
        result = engine.model(**inputs)
    targets = inputs["labels"][0, 1:]
    hits = (result.logits[0, :-1].argmax(-1) == targets)[targets != -100]
    assert outcome.scores["loss_nats"] == pytest.approx(result.loss.item(), abs=1e-4)
    assert outcome.scores["token_accuracy"] == pytest.approx(hits.float().mean().item())
    assert outcome.reference == SHORT.strip()


@pytest.mark.parametrize("measure", [measure_recall, measure_answer, measure_restatement])
def test_no_soft_tokens_is_the_same_decoder_and_wording_without_chunks(engine, monkeypatch, measure):
    seen, forward = [], engine.model.language_model.forward

    def watch(*args, **kwargs):
        seen.append(kwargs.get("inputs_embeds"))
        return forward(*args, **kwargs)

    monkeypatch.setattr(engine.model.language_model, "forward", watch)
    measure(engine, Record(SHORT, QUESTION, "under the stone"), EMPTY_CONTEXT, None)
    restates = measure is measure_restatement
    prompt, answer = ("Restate the context.", SHORT.strip()) if restates else (QUESTION, None)
    ids = engine.processor.lay_out([], prompt, answer).input_ids
    assert torch.equal(seen[0], engine.model.get_input_embeddings()(torch.tensor([ids])))
    with_chunk = engine.processor.lay_out(["x"], prompt, answer, num_soft_tokens=1).input_ids
    with_chunk.remove(engine.processor.chunk_token_id)
    assert ids == with_chunk


def test_every_rate_and_the_bare_decoder_are_measured_on_the_same_records(engine, records, tmp_path):
    file = records(
        {"context": SHORT, "prompt": QUESTION, "answer": "a stone", "id": "one"},
        {"context": SHORT, "prompt": "Who?", "answer": "Mira", "id": "two"},
        {"context": TEXT, "prompt": "How many?", "answer": "seven", "id": "three"},
    )
    output = tmp_path / "scores.json"
    scores = measure_model(engine, "tiny", [("answers", file)], [1, 4], 2, None, output)
    assert json.loads(output.read_text())["model"] == scores["model"] == "tiny"
    assert [row["system"] for row in scores["scores"]] == ["e2llm k=1", "e2llm k=4", NO_SOFT_TOKENS]
    assert all((row["num_records"], row["records"]) == (2, "records.jsonl") for row in scores["scores"])
    lines = [json.loads(line) for line in (tmp_path / "scores.predictions.jsonl").read_text().splitlines()]
    assert [(line["system"], line["id"]) for line in lines[::2]] == [
        ("e2llm k=1", "one"),
        ("e2llm k=4", "one"),
        (NO_SOFT_TOKENS, "one"),
    ]
    expected = engine.ask(engine.read(SHORT), "Who?", soft_tokens=4, max_new_tokens=48).text
    assert (lines[3]["prediction"], lines[3]["reference"]) == (expected, "Mira")
    bare = engine.ask(EMPTY_CONTEXT, "Who?", max_new_tokens=48).text
    assert lines[5]["prediction"] == bare != expected


def test_scores_are_the_means_of_the_predictions(engine, records, tmp_path):
    file = records({"context": SHORT}, {"context": TEXT}, {"context": SHORT})
    scores = measure_model(engine, "tiny", [("restatement", file)], [], 2, None, tmp_path / "s.json")
    row = scores["scores"][0]
    lines = [json.loads(line) for line in (tmp_path / "s.predictions.jsonl").read_text().splitlines()]
    losses = [line["scores"]["loss_nats"] for line in lines if line["system"] == row["system"]]
    assert (row["system"], row["num_records"], len(losses)) == ("e2llm k=4", 2, 2)
    assert row["values"]["loss_nats"] == pytest.approx(sum(losses) / 2, abs=1e-4)
    low, high = row["intervals_95"]["loss_nats"]
    assert low <= row["values"]["loss_nats"] <= high


def test_long_contexts_can_be_left_out(engine, records, tmp_path):
    file = records({"context": TEXT, "id": "long"}, {"context": SHORT, "id": "short"})
    measure_model(engine, "tiny", [("restatement", file)], [1], 9, 3, tmp_path / "s.json")
    lines = (tmp_path / "s.predictions.jsonl").read_text().splitlines()
    assert {json.loads(line)["id"].split("[")[0] for line in lines} == {"short"}


def test_restated_passages_are_chunks_spread_over_each_context(engine):
    chunks = [chunk.text for chunk in engine.processor.split(TEXT)]
    records = list(usable(engine, "restatement", iter([Record(TEXT, "", "", id="a")] * 2), None))
    found = [chunks.index(record.context) for record in records]
    assert found == sorted(set(found))
    assert len(found) == min(8, len(chunks))
    assert found[0] < len(chunks) / 4
    assert found[-1] >= len(chunks) * 3 // 4


@pytest.mark.parametrize(
    ("row", "max_chunks", "words"),
    [
        ({"context": TEXT}, None, "no record serves the measure 'recall'$"),
        ({"context": TEXT, "prompt": "Q?", "answer": "A"}, 2, "'recall' within 2 chunks"),
    ],
)
def test_a_file_without_usable_records_is_refused(engine, records, tmp_path, row, max_chunks, words):
    file = records(row)
    with pytest.raises(E2LLMError, match=words):
        measure_model(engine, "tiny", [("recall", file)], [1], 9, max_chunks, tmp_path / "s.json")
    assert not (tmp_path / "s.json").exists()


def test_a_record_that_overflows_is_named(engine, records, tmp_path):
    file = records({"context": TEXT * 60, "prompt": "Q?", "answer": "A", "id": "whale"})
    with pytest.raises(ContextOverflowError, match=r"record whale: .* too many; .* max_chunks"):
        measure_model(engine, "tiny", [("recall", file)], [4], 9, None, tmp_path / "s.json")


@pytest.mark.parametrize(
    ("tasks", "rates", "error", "words"),
    [
        ([], [1], E2LLMError, "no measure asked for"),
        (
            [("poems", "x")],
            [1],
            E2LLMError,
            "unknown measure 'poems'; choose from recall",
        ),
        ([("recall", "gone.jsonl")], [1], FileNotFoundError, "no such records file: gone.jsonl"),
        ([("recall", __file__)], [9], E2LLMError, "from 1 to 4, got 9"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_read(engine, tmp_path, tasks, rates, error, words):
    with pytest.raises(error, match=words):
        measure_model(engine, "tiny", tasks, rates, 9, None, tmp_path / "s.json")


def test_a_folder_is_no_place_for_scores(engine, records, tmp_path):
    file = records({"context": SHORT})
    with pytest.raises(E2LLMError, match="is a folder; name a file"):
        measure_model(engine, "tiny", [("restatement", file)], [1], 9, None, tmp_path)
