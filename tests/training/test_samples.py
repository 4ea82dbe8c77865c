import pickle
import random
from collections import Counter

import pytest
from small_parts import STORY

from e2llm.errors import E2LLMError
from e2llm.modeling.processor import E2LLMProcessor
from e2llm.prompts import UNDERSTANDING_PROMPT
from e2llm.records import Record
from e2llm.training.recipes.schema import DataFile
from e2llm.training.samples.data_files import Source, hold_out, load_sources
from e2llm.training.samples.levels import choose_raw, crop
from e2llm.training.samples.sample_set import OBJECTIVES, SampleSet


@pytest.fixture
def processor(encoder, decoder):
    return E2LLMProcessor.from_parts(encoder, decoder, chunk_size_chars=64, num_soft_tokens=2)


@pytest.fixture
def sample_set(recipe_of, processor):
    """Makes a sample set; keyword arguments change the recipe's sections."""

    def make(num_samples=60, only=None, window=None, sources=None, group_size=1, **sections):
        recipe = recipe_of(**sections)
        return SampleSet(
            sources or load_sources(recipe.data.train),
            recipe,
            processor,
            num_samples,
            only=only,
            window=window,
            group_size=group_size,
        )

    return make


def answer_of(processor, sample):
    """The text that a sample trains on."""
    return processor.decode_answer([label for label in sample.decoder_input.labels if label != -100])


def placeholders(processor, sample):
    return sample.decoder_input.input_ids.count(processor.chunk_token_id)


def test_a_sample_depends_on_the_seed_and_its_index_alone(sample_set):
    one, other = sample_set(), sample_set()
    forward = [one[index] for index in range(60)]
    backward = [other[index] for index in reversed(range(60))]
    assert forward == backward[::-1]
    assert sample_set(seed=4)[0] != forward[0] or sample_set(seed=4)[1] != forward[1]


def test_a_longer_run_begins_with_the_samples_of_a_shorter_one(sample_set):
    assert [sample_set(8)[i] for i in range(8)] == [sample_set(60)[i] for i in range(8)]


def test_a_window_restates_exactly_the_text_of_its_chunks(sample_set, processor):
    samples = sample_set(only="understanding", objectives={"understanding": {"window_chunks": [1, 3]}})
    for index in range(30):
        sample = samples[index]
        assert answer_of(processor, sample) == "".join(sample.decoder_input.chunks).strip()
        assert len(sample.decoder_input.chunks) in (1, 3)
    prompt = processor.encode(" " + UNDERSTANDING_PROMPT)
    ids = sample.decoder_input.input_ids
    assert any(ids[i : i + len(prompt)] == prompt for i in range(len(ids)))


def test_a_reasoning_sample_reads_the_whole_context_and_predicts_the_answer(sample_set, processor):
    samples = sample_set(only="reasoning")
    for index in range(10):
        sample = samples[index]
        text = "".join(sample.decoder_input.chunks)
        assert answer_of(processor, sample) in text
        assert text.startswith("The harbour lights")
        assert text.endswith("in the morning. ")


def test_cutting_keeps_a_chunk_with_evidence(sample_set, processor):
    samples = sample_set(only="reasoning", objectives={"reasoning": {"max_chunks": 2}})
    for index in range(30):
        sample = samples[index]
        assert len(sample.decoder_input.chunks) == 2
        assert answer_of(processor, sample) in "".join(sample.decoder_input.chunks)


def test_cutting_without_evidence_keeps_the_beginning():
    assert crop([False] * 9, 4, random.Random(0)) == (0, 4)


def test_cutting_can_keep_all_evidence_where_it_fits():
    gold = [False, False, True, False, True, False, False, False]
    runs = [crop(gold, 4, random.Random(seed)) for seed in range(40)]
    assert all(first <= 2 and last >= 5 and last - first == 4 for first, last in runs)
    assert len(set(runs)) == 2
    far = [True, *[False] * 8, True]
    assert {crop(far, 4, random.Random(seed))[0] for seed in range(40)} == {0, 6}


def test_one_number_of_soft_tokens_holds_for_a_whole_optimizer_step(sample_set, processor):
    samples = sample_set(80, only="understanding", group_size=8)
    per_chunk = [
        placeholders(processor, samples[i]) // len(samples[i].decoder_input.chunks) for i in range(80)
    ]
    groups = [set(per_chunk[start : start + 8]) for start in range(0, 80, 8)]
    assert all(len(group) == 1 for group in groups)
    assert set.union(*groups) == {1, 2}


def test_distractors_are_chunks_of_other_contexts_around_the_whole_one(sample_set):
    reasoning = {"distractor_fraction": 1.0, "distractor_max_chunks": 6}
    samples = sample_set(only="reasoning", objectives={"reasoning": reasoning})
    plain = sample_set(only="reasoning")
    more = 0
    for index in range(20):
        surrounded, whole = samples[index].decoder_input.chunks, plain[index].decoder_input.chunks
        assert "".join(whole) in "".join(surrounded)
        assert len(surrounded) - len(whole) <= 6
        more += len(surrounded) > len(whole)
    assert more > 10


def test_lower_rates_allow_more_distractors_within_the_same_soft_tokens(sample_set):
    reasoning = {"distractor_fraction": 1.0, "distractor_max_chunks": 9, "distractor_max_soft_tokens": 8}
    most = {}
    for k in (1, 2):
        mix = {"reasoning": reasoning, "soft_tokens": [k]}
        samples, plain = (sample_set(100, only="reasoning", objectives=asked) for asked in (mix, {}))
        counts = [
            len(samples[index].decoder_input.chunks) - len(plain[index].decoder_input.chunks)
            for index in range(100)
        ]
        most[k] = max(counts)
    assert most == {1: 8, 2: 4}


def test_files_are_drawn_by_their_weights_within_an_objective(sample_set):
    files = [{"path": "questions.jsonl", "weight": 3}, {"path": "texts.jsonl", "weight": 1}]
    samples = sample_set(400, only="understanding", data={"train": files})
    stories = sum("Story" in text for i in range(400) for text in samples[i].decoder_input.chunks[:1])
    contexts = samples.pools["understanding"][1]
    assert contexts == [3, 1]
    assert 0 < stories < 150


def test_text_only_records_never_serve_reasoning(sample_set):
    pools, _ = sample_set().pools["reasoning"]
    assert all(record.prompt for pool in pools for record in pool)
    with pytest.raises(E2LLMError, match="no train record serves the reasoning objective"):
        sample_set(data={"train": [{"path": "texts.jsonl"}]})


def test_a_context_with_many_questions_is_restated_no_more_often_than_others(sample_set):
    records = [Record(STORY, f"Question {number}?", "seven") for number in range(9)]
    samples = sample_set(sources=[Source(DataFile(path="x"), [*records, Record("Another text.", "", "")])])
    (pool,), _ = samples.pools["understanding"]
    assert len(pool) == 2


def test_a_sample_that_does_not_fit_the_window_is_an_error_that_names_the_record(sample_set):
    samples = sample_set(only="reasoning", window=40)
    with pytest.raises(
        E2LLMError, match=r"record 'boat-\d+' needs \d+ positions, .* window has 40; lower objectives"
    ):
        samples[0]


def test_an_index_outside_is_an_index_error(sample_set):
    with pytest.raises(IndexError):
        sample_set(8)[8]


def test_a_copy_for_a_worker_process_draws_the_same(sample_set):
    samples = sample_set(8)
    assert [pickle.loads(pickle.dumps(samples))[i] for i in range(8)] == [samples[i] for i in range(8)]  # noqa: S301


def test_no_context_is_on_both_sides_of_the_held_out_split():
    records = [Record(f"Context {number // 3}.", f"Question {number}?", "yes") for number in range(300)]
    first, second = Source(DataFile(path="a"), records), Source(DataFile(path="b"), records[:90])
    train, validation = hold_out([first, second], 0.3)
    sides = [{record.context for source in side for record in source.records} for side in (train, validation)]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 100
    assert 18 <= len(sides[1]) <= 42


def test_a_bad_line_is_reported_with_file_and_number(tmp_path):
    file = tmp_path / "bad.jsonl"
    file.write_text('{"context": "a", "prompt": "b", "answer": "c"}\n{"context": \n')
    with pytest.raises(E2LLMError, match=r"bad\.jsonl:2: not valid JSON"):
        load_sources([DataFile(path=str(file))])


def test_a_missing_data_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.jsonl"):
        load_sources([DataFile(path=str(tmp_path / "none.jsonl"))])


def test_an_empty_data_file_is_an_error(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(E2LLMError, match="contains no records"):
        load_sources([DataFile(path=str(tmp_path / "empty.jsonl"))])


def needle_source(count=20):
    texts = [f"The number of box {number} is {number * 11}." for number in range(1, count)]
    records = [
        Record(text, f"What is in box {number}?", str(number * 11), evidence=((0, len(text)),))
        for number, text in enumerate(texts, 1)
    ]
    return Source(DataFile(path="needles"), records)


def test_a_file_of_distractors_gives_chunks_and_no_questions(sample_set):
    others = [Record(f"Other text {number}.", "Why?", "So.") for number in range(9)]
    distractors = Source(DataFile(path="others", objectives=["distractors"]), others)
    reasoning = {"distractor_fraction": 1.0, "distractor_max_chunks": 4}
    samples = sample_set(
        only="reasoning", sources=[needle_source(), distractors], objectives={"reasoning": reasoning}
    )
    for index in range(40):
        chunks = samples[index].decoder_input.chunks
        assert sum(chunk.startswith("The number") for chunk in chunks) == 1
    assert any("Other text" in chunk for i in range(40) for chunk in samples[i].decoder_input.chunks)


def test_raw_chunks_are_text_and_mostly_those_with_evidence(sample_set, processor):
    mixed, plain = (
        sample_set(40, only="reasoning", objectives={"mixed_fraction": share}) for share in (1.0, 0.0)
    )
    for index in range(12):
        given, whole = mixed[index].decoder_input.chunks, plain[index].decoder_input.chunks
        raw = list((Counter(whole) - Counter(given)).elements())
        assert len(raw) in (1, 2)
        ids, text = mixed[index].decoder_input.input_ids, processor.encode(raw[0])
        assert any(ids[i : i + len(text)] == text for i in range(len(ids)))
    draws = [choose_raw([False, False, True, False], random.Random(seed)) for seed in range(600)]
    assert 0.7 < sum(2 in chosen for chosen in draws) / len(draws) < 0.9


def test_objectives_are_drawn_by_their_shares(sample_set):
    samples = sample_set(600, objectives={"understanding": {"fraction": 0.3}})
    shares = Counter(OBJECTIVES[samples[index].objective] for index in range(600))
    assert abs(shares["understanding"] - 180) < 40


def test_raw_chunks_without_evidence_become_soft_when_the_window_is_full(sample_set):
    others = [Record("Long words follow one another here. " * 2, "", "") for _ in range(3)]
    distractors = Source(DataFile(path="others", objectives=["distractors"]), others)
    mix = {"mixed_fraction": 1.0, "reasoning": {"distractor_fraction": 1.0, "distractor_max_chunks": 8}}
    sources = [needle_source(), distractors]
    free = sample_set(40, only="reasoning", sources=sources, objectives=mix)
    tight = sample_set(40, only="reasoning", sources=sources, objectives=mix, window=90)
    assert max(len(free[i].decoder_input.input_ids) for i in range(40)) > 90
    assert all(len(tight[i].decoder_input.input_ids) <= 90 for i in range(40))
