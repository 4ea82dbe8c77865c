import json
from itertools import pairwise
from pathlib import Path

import pytest

from e2llm import Record
from e2llm.data.registry import DATASETS
from e2llm.errors import E2LLMError
from e2llm.evaluation.items import Item, TaskRequest
from e2llm.evaluation.tasks import TASKS
from e2llm.evaluation.tasks.record_sources import evaluation_split, find_records, spread_records
from e2llm.evaluation.tasks.record_tasks import (
    AnswersTask,
    RecallTask,
    length_group,
)
from e2llm.records import write_records

TEN_STORIES = [Record(f"Story {story}.", f"Q{number}?", "A") for story in range(10) for number in range(5)]


def request(limit=50, seed=0, data=None):
    return TaskRequest(lambda text: len(text.split()), limit, seed, data)


def write(file, *records):
    write_records(file, records)
    return file


def spread(records, limit, seed="0"):
    return list(spread_records(lambda: iter(records), limit, seed))


def test_a_small_limit_asks_one_question_of_many_contexts():
    assert len({record.context for _, record in spread(TEN_STORIES, 10)}) == 10


def test_records_with_one_context_follow_each_other():
    contexts = [record.context for _, record in spread(TEN_STORIES, 27)]
    changes = sum(left != right for left, right in pairwise(contexts))
    assert (len(contexts), changes) == (27, 9)
    assert sorted(contexts.count(context) for context in set(contexts)) == [2, 2, 2, 3, 3, 3, 3, 3, 3, 3]


def test_a_larger_limit_asks_what_a_smaller_one_asks_and_more():
    few, many, everything = (spread(TEN_STORIES, limit) for limit in (7, 23, 1000))
    assert {name for name, _ in few} < {name for name, _ in many} < {name for name, _ in everything}
    assert len(everything) == 50


def test_the_seed_fixes_which_contexts_are_read_and_what_is_asked_of_them():
    first, again, other = (spread(TEN_STORIES, 5, seed) for seed in ("1", "1", "2"))
    assert first == again
    assert [record.context for _, record in first] != [record.context for _, record in other]
    (one_story,) = {tuple(name for name, _ in spread(TEN_STORIES[:5], 2, "1"))}
    assert {tuple(name for name, _ in spread(TEN_STORIES[:5], 2, str(seed))) for seed in range(20)} > {
        one_story
    }


def test_contexts_with_few_questions_leave_their_turn_to_others():
    records = [Record("A.", "1?", "A"), *(Record("B.", f"{number}?", "A") for number in range(5))]
    assert [record.context for _, record in sorted(spread(records, 4))] == ["A.", "B.", "B.", "B."]


def test_names_are_unique_even_where_ids_are_not():
    records = [Record("T.", "Q?", "A", id=name) for name in ("a", "a", "", "b")]
    assert [name for name, _ in spread(records, 9)] == ["a", "a#2", "record-3", "b"]


def test_records_without_a_question_are_passed_over():
    records = [Record("T.", "", ""), Record("T.", "Q?", "A")]
    assert [name for name, _ in spread(records, 9)] == ["record-2"]


def test_prepared_records_come_before_the_authors_files_and_those_before_the_sample(tmp_path):
    shipped = next(find_records("fairytaleqa", tmp_path)[1]())
    questions, stories = (
        tmp_path / "fairytaleqa" / name / "val" for name in ("questions", "section-stories")
    )
    for folder in (questions, stories):
        folder.mkdir(parents=True)
    (questions / "made-questions.csv").write_text(
        "question_id,cor_section,question,answer1\n1,1,Who?,a king\n"
    )
    (stories / "made-story.csv").write_text("section,text\n1,Once a made king lived.\n")
    authors = next(find_records("fairytaleqa", tmp_path)[1]())
    write(tmp_path / "fairytaleqa-validation.jsonl", Record("Prepared.", "Q?", "A"))
    prepared = next(find_records("fairytaleqa", tmp_path)[1]())
    assert shipped.source == "fairytaleqa"
    assert authors.context == "Once a made king lived."
    assert prepared.context == "Prepared."


def test_without_a_data_folder_the_sample_is_asked():
    items = list(TASKS["qmsum"]().items(request(limit=3)))
    assert len({item.context for item in items}) == 3
    assert all(item.task == "qmsum" and item.references and item.prompt for item in items)


@pytest.mark.parametrize("with_folder", [False, True])
def test_a_data_set_that_is_not_here_is_told_how_to_get(tmp_path, with_folder):
    data = tmp_path if with_folder else None
    with pytest.raises(E2LLMError, match="get it from https://github") as error:
        find_records("squality", data)
    file = (data or Path("DATA")) / "squality-validation.jsonl"
    assert f"run: e2llm prepare squality --from FOLDER --split validation -o {file};" in str(error.value)


def test_a_folder_of_data_sets_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no such folder: --data {tmp_path}/gone"):
        TASKS["fairytaleqa"]().items(request(data=tmp_path / "gone"))


@pytest.mark.parametrize(
    ("name", "split"),
    [("fairytaleqa", "validation"), ("covid_qa", "train"), ("scisummnet", "train"), ("longbench_v2", "test")],
)
def test_a_set_in_one_piece_is_asked_whole(name, split):
    assert evaluation_split(DATASETS[name]) == split


def test_an_item_is_its_record_with_a_group_for_its_length(tmp_path):
    record = Record(
        "one two three", "Q?", "A", references=("B",), evidence=((0, 3),), id="x", groups={"domain": "law"}
    )
    write(tmp_path / "triviaqa-validation.jsonl", record)
    assert list(TASKS["triviaqa"]().items(request(data=tmp_path))) == [
        Item(
            task="triviaqa",
            id="x",
            context="one two three",
            prompt="Q?",
            references=("A", "B"),
            evidence=((0, 3),),
            groups={"domain": "law", "length_tokens": 4},
        )
    ]


@pytest.mark.parametrize(
    ("num_tokens", "group"), [(0, 1), (1, 1), (2, 2), (3, 4), (4096, 4096), (4097, 8192)]
)
def test_lengths_are_grouped_by_powers_of_two(num_tokens, group):
    assert length_group(num_tokens) == group


def test_a_context_is_measured_once_for_all_its_questions(tmp_path):
    write(tmp_path / "triviaqa-validation.jsonl", *TEN_STORIES)
    calls = []
    items = TASKS["triviaqa"]().items(TaskRequest(lambda text: calls.append(text) or 3, 50, 0, tmp_path))
    assert (len(list(items)), len(calls)) == (50, 10)


def test_a_multiple_choice_item_has_its_options_and_the_right_one(tmp_path):
    groups = {"difficulty": "hard", "length": "short", "domain": "law"}
    record = Record("T.", "Q? A. x B. y", "B", options=("x", "y"), groups=groups, id="1")
    write(tmp_path / "longbench_v2-validation.jsonl", record)
    (item,) = TASKS["longbench_v2"]().items(request(data=tmp_path))
    assert (item.prompt, item.options, item.gold, item.references) == ("Q? A. x B. y", ("x", "y"), 1, ("y",))
    assert item.groups == {**groups, "length_tokens": 1}
    assert TASKS["longbench_v2"].kind == "choose"


def test_a_multiple_choice_record_without_options_is_an_error(tmp_path):
    write(tmp_path / "quality-validation.jsonl", Record("T.", "Q?", "B", id="7"))
    with pytest.raises(E2LLMError, match="quality, record 7: 'options' is missing"):
        list(TASKS["quality"]().items(request(data=tmp_path)))


def test_accuracy_is_whether_the_right_option_is_meant():
    item = Item("quality", "1", "T.", "Q?", ("y",), options=("x", "y"), gold=1)
    scores = [TASKS["quality"]().score(item, text)["accuracy"] for text in ("B", " y ", "A", "x", "C")]
    assert scores == [1.0, 1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("task", "prediction", "scores"),
    [
        (TASKS["fairytaleqa"], "nine", {"rouge_l": 1.0, "f1": 1.0}),
        (TASKS["covid_qa"], "a blue stone and mud", {"f1": 0.75, "em": 0.0}),
        (TASKS["triviaqa"], "Blue-stone and sand!", {"f1": 1.0, "em": 1.0}),
    ],
)
def test_answers_are_scored_by_the_metrics_of_their_set_and_the_best_reference(task, prediction, scores):
    item = Item(task.name, "1", "T.", "Q?", ("at ten", "nine", "blue stone and sand"))
    assert task().score(item, prediction) == scores


def test_summaries_are_scored_by_rouge_and_its_geometric_mean():
    item = Item("qmsum", "1", "T.", "Q?", ("the cat sat on the mat",))
    scores = TASKS["qmsum"]().score(item, "the cat sat on a mat")
    assert list(scores) == ["g_mean", "rouge_1", "rouge_2", "rouge_l", "rouge_lsum"]
    assert scores["g_mean"] == pytest.approx(
        (scores["rouge_1"] * scores["rouge_2"] * scores["rouge_l"]) ** (1 / 3)
    )


def test_a_file_of_ones_own_is_a_task_with_the_files_name(tmp_path):
    file = write(tmp_path / "mine.jsonl", Record("T.", "Q?", "A", id="1"))
    (item,) = AnswersTask(file).items(request())
    assert item.task == AnswersTask(file).name == f"answers={file}"
    assert AnswersTask.name == "answers"


def test_a_file_has_the_same_items_wherever_it_lies(tmp_path):
    files = [write(tmp_path / folder / "mine.jsonl", *TEN_STORIES) for folder in ("here", "there")]
    ids = [[item.id for item in AnswersTask(file).items(request(limit=7))] for file in files]
    assert ids[0] == ids[1]


def test_recall_counts_the_values_of_a_list(tmp_path):
    file = write(tmp_path / "mine.jsonl", Record("T.", "Q?", "12, 7 and nimble-otter."))
    (item,) = RecallTask(file).items(request())
    assert item.references == ("12", "7", "nimble-otter")
    assert RecallTask(file).score(item, "It is 12 and NIMBLE-otter") == {"recall": pytest.approx(2 / 3)}


@pytest.mark.parametrize(
    ("answer", "values"),
    [
        ("4", ["4"]),
        ("4, 5", ["4", "5"]),
        ("4, 5, and 6.", ["4", "5", "6"]),
        ("sand and sea", ["sand", "sea"]),
    ],
)
def test_a_list_in_words_is_taken_apart(answer, values):
    assert RecallTask(Path("x")).item("1", Record("T.", "Q?", answer)).references == tuple(values)


def test_a_file_without_questions_is_an_error(tmp_path):
    file = write(tmp_path / "mine.jsonl", Record("T.", "", ""))
    with pytest.raises(E2LLMError, match=r"recall=.*mine\.jsonl: no record has a question"):
        list(RecallTask(file).items(request()))


def test_a_missing_file_is_named_at_once(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such records file: .*gone\.jsonl"):
        AnswersTask(tmp_path / "gone.jsonl").items(request())


def test_a_bad_line_is_named(tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text(json.dumps({"context": "T.", "prompt": "Q?"}))
    with pytest.raises(E2LLMError, match=r"mine\.jsonl:1: missing key\(s\) answer"):
        list(AnswersTask(file).items(request()))
