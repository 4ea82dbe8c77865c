import pickle
import random
from collections import Counter

import pytest
from small_parts import STORY

from e2llm.errors import E2LLMError
from e2llm.modeling.processor import E2LLMProcessor
from e2llm.prompts import UNDERSTANDING_PROMPT
from e2llm.records import Record
from e2llm.training.cropping import choose_expanded, crop
from e2llm.training.samples import OBJECTIVES, SampleSet
from e2llm.training.schema import DataFile
from e2llm.training.sources import Source, hold_out, load_sources


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


def test_windows_start_at_multiples_of_the_stride(sample_set, processor):
    context = "".join(f"Sentence {number:02d} is here. " for number in range(12))
    sources = [Source(DataFile(path="x"), [Record(context, "", "")])]
    starts = {chunk.text: number for number, chunk in enumerate(processor.split(context))}
    understanding = {"window_chunks": [2], "stride_chunks": 2}
    samples = sample_set(only="understanding", sources=sources, objectives={"understanding": understanding})
    assert {starts[samples[i].decoder_input.chunks[0]] % 2 for i in range(40)} == {0}


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
    runs = [crop(gold, 4, random.Random(seed), keep_all=True) for seed in range(40)]
    assert all(first <= 2 and last >= 5 and last - first == 4 for first, last in runs)
    assert len(set(runs)) == 2
    far = [True, *[False] * 8, True]
    assert {crop(far, 4, random.Random(seed), keep_all=True)[0] for seed in range(40)} == {0, 6}


def test_one_number_of_soft_tokens_holds_for_a_whole_optimizer_step(sample_set, processor):
    samples = sample_set(80, only="understanding", group_size=8)
    per_chunk = [
        placeholders(processor, samples[i]) // len(samples[i].decoder_input.chunks) for i in range(80)
    ]
    groups = [set(per_chunk[start : start + 8]) for start in range(0, 80, 8)]
    assert all(len(group) == 1 for group in groups)
    assert set.union(*groups) == {1, 2}


def test_an_expanded_chunk_stands_as_text_in_the_place_of_its_soft_tokens(sample_set, processor):
    samples = sample_set(
        only="reasoning", objectives={"reasoning": {"expand_fraction": 1.0, "expand_max_chunks": 1}}
    )
    plain = sample_set(only="reasoning")
    for index in range(12):
        expanded, whole = samples[index].decoder_input.chunks, plain[index].decoder_input.chunks
        (left_out,) = (Counter(whole) - Counter(expanded)).elements()
        ids, raw = samples[index].decoder_input.input_ids, processor.encode(left_out)
        assert any(ids[i : i + len(raw)] == raw for i in range(len(ids)))


def test_gold_chunks_are_expanded_as_often_as_asked():
    gold = [False, False, True, False]
    draws = [choose_expanded(gold, 1, 0.7, random.Random(seed)) for seed in range(600)]
    share = sum(2 in chosen for chosen in draws) / len(draws)
    assert 0.62 < share < 0.78
    assert all(len(chosen) == 1 for chosen in draws)


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


def test_a_file_has_its_own_share_of_raw_chunks(sample_set):
    def raw_share(share, own):
        source = needle_source(1)
        source.file.expand_fraction = own
        reasoning = {"expand_fraction": share, "expand_max_chunks": 1, "expand_gold_fraction": 1.0}
        samples = sample_set(40, only="reasoning", sources=[source], objectives={"reasoning": reasoning})
        return sum(not samples[index].decoder_input.chunks for index in range(40)) / 40

    assert raw_share(0.0, 1.0) == 1.0
    assert raw_share(1.0, 0.0) == 0.0
    assert raw_share(1.0, None) == 1.0


def test_a_language_sample_predicts_every_token_of_its_text_but_the_first(sample_set, processor):
    mix = {"language": {"fraction": 1.0, "sequence_tokens": 24}, "understanding": {"fraction": 0.0}}
    samples = sample_set(
        data={"train": [{"path": "texts.jsonl", "objectives": ["language"]}]}, objectives=mix
    )
    for index in range(10):
        layout = samples[index].decoder_input
        assert [-100, *layout.input_ids[1:]] == layout.labels
        assert len(layout.input_ids) <= 24
        assert not layout.chunks


def test_the_end_of_a_text_is_learned(sample_set, processor):
    mix = {"language": {"fraction": 1.0, "sequence_tokens": 500}, "understanding": {"fraction": 0.0}}
    samples = sample_set(
        data={"train": [{"path": "texts.jsonl", "objectives": ["language"]}]}, objectives=mix
    )
    assert samples[0].decoder_input.input_ids[-1] == processor.tokenizer.eos_token_id


def test_objectives_are_drawn_by_their_shares(sample_set):
    mix = {"language": {"fraction": 0.2}, "understanding": {"fraction": 0.5}}
    files = [{"path": "questions.jsonl", "objectives": list(OBJECTIVES)}]
    samples = sample_set(1000, data={"train": files}, objectives=mix)
    shares = Counter(OBJECTIVES[samples[index].objective] for index in range(1000))
    assert abs(shares["language"] - 200) < 45
    assert abs(shares["understanding"] - 500) < 55


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
    with pytest.raises(E2LLMError, match="holds no records"):
        load_sources([DataFile(path=str(tmp_path / "empty.jsonl"))])


def test_a_limit_reads_the_first_records_only(recipe_of):
    recipe = recipe_of(data={"train": [{"path": "questions.jsonl", "limit": 5}]})
    (source,) = load_sources(recipe.data.train)
    assert [record.id for record in source.records] == [f"boat-{number}" for number in range(5)]


def needle_source(most_turns, count=20):
    texts = [f"The number of box {number} is {number * 11}." for number in range(1, count)]
    records = [
        Record(text, f"What is in box {number}?", str(number * 11), evidence=((0, len(text)),))
        for number, text in enumerate(texts, 1)
    ]
    return Source(DataFile(path="needles", most_turns=most_turns), records)


def test_records_of_a_file_are_asked_one_after_another_and_all_answers_are_predicted(sample_set, processor):
    samples = sample_set(100, only="reasoning", sources=[needle_source(most_turns=3)])
    numbers_of_turns = Counter()
    for index in range(100):
        layout = samples[index].decoder_input
        numbers = [chunk.split()[-1].rstrip(".") for chunk in layout.chunks]
        assert len(set(numbers)) == len(numbers)
        given = answer_of(processor, samples[index])
        assert sorted(given.split()) == sorted(numbers)
        numbers_of_turns[len(numbers)] += 1
    assert set(numbers_of_turns) == {1, 2, 3}
    assert min(numbers_of_turns.values()) > 15


def test_a_file_of_distractors_gives_chunks_and_no_questions(sample_set):
    others = [Record(f"Other text {number}.", "Why?", "So.") for number in range(9)]
    distractors = Source(DataFile(path="others", objectives=["distractors"]), others)
    reasoning = {"distractor_fraction": 1.0, "distractor_max_chunks": 4}
    samples = sample_set(
        only="reasoning", sources=[needle_source(1), distractors], objectives={"reasoning": reasoning}
    )
    for index in range(40):
        chunks = samples[index].decoder_input.chunks
        assert sum(chunk.startswith("The number") for chunk in chunks) == 1
    assert any("Other text" in chunk for i in range(40) for chunk in samples[i].decoder_input.chunks)


def test_raw_chunks_of_other_contexts_become_soft_where_the_window_is_full(sample_set, processor):
    others = [Record("Long words follow one another here. " * 2, "", "") for _ in range(3)]
    distractors = Source(DataFile(path="others", objectives=["distractors"]), others)
    reasoning = {
        "distractor_fraction": 1.0,
        "distractor_max_chunks": 8,
        "expand_fraction": 1.0,
        "expand_max_chunks": 9,
        "expand_gold_fraction": 1.0,
    }
    sources = [needle_source(1), distractors]
    free = sample_set(40, only="reasoning", sources=sources, objectives={"reasoning": reasoning})
    tight = sample_set(40, only="reasoning", sources=sources, objectives={"reasoning": reasoning}, window=120)
    lengths = [len(free[i].decoder_input.input_ids) for i in range(40)]
    assert max(lengths) > 120
    for index in range(40):
        layout = tight[index].decoder_input
        assert len(layout.input_ids) <= 120
        assert not any(chunk.startswith("The number") for chunk in layout.chunks)  # the gold one stays raw


def test_a_window_can_be_restated_from_its_text(sample_set, processor):
    understanding = {"window_chunks": [2], "expand_fraction": 1.0}
    samples = sample_set(only="understanding", objectives={"understanding": understanding})
    for index in range(10):
        layout = samples[index].decoder_input
        assert not layout.chunks
        answer = [label for label in layout.labels if label != -100]
        context = layout.input_ids[: len(layout.labels) - len(answer)]
        assert answer_of(processor, samples[index])[:20] in processor.decode_answer(context)


def test_sorting_keeps_the_samples_of_each_step(sample_set):
    samples = sample_set(60, group_size=8)
    order = list(samples.by_length())
    assert sorted(order) == list(range(60))
    for first in range(0, 60, 8):
        group = order[first : first + 8]
        assert set(group) == set(range(first, min(first + 8, 60)))
        lengths = [len(samples[index].decoder_input.input_ids) for index in group]
        assert lengths == sorted(lengths)


def test_positions_skip_up_to_the_window_and_never_within_an_answer(sample_set):
    train = {"position_skips": 0.5}
    samples = sample_set(80, only="reasoning", window=900, train=train, sources=[needle_source(3)])
    skipped = 0
    for index in range(80):
        sample = samples[index]
        if sample.positions is None:
            continue
        labels = sample.decoder_input.labels
        assert len(sample.positions) == len(labels)
        assert sample.positions == sorted(set(sample.positions))
        assert sample.positions[-1] < 900
        steps = zip(sample.positions[:-1], sample.positions[1:], labels[1:], strict=True)
        assert all(after == before + 1 for before, after, label in steps if label != -100)
        skipped += sample.positions[-1] >= len(labels)
    assert 20 < skipped < 60
    assert all(sample_set(8, window=900)[index].positions is None for index in range(8))


def test_all_gold_chunks_can_be_expanded_at_once():
    gold = [True, False, True, False, True]
    draws = [choose_expanded(gold, 4, 0.7, random.Random(seed), all_gold=True) for seed in range(200)]
    counts = Counter(len({0, 2, 4} & set(chosen)) for chosen in draws)
    assert set(counts) == {0, 3}
    assert 0.6 < counts[3] / 200 < 0.8
    assert any(len(chosen) == 4 for chosen in draws)
