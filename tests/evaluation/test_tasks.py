import os
import subprocess
import sys

import pytest

from e2llm import Record
from e2llm.errors import E2LLMError
from e2llm.evaluation.items import TaskRequest
from e2llm.evaluation.tasks import FILE_TASKS, TASKS, create_task
from e2llm.evaluation.tasks.record_sources import default_haystacks
from e2llm.evaluation.tasks.record_tasks import AnswersTask, DataSetTask, RecallTask
from e2llm.evaluation.tasks.ruler.ruler_task import RulerTask
from e2llm.records import write_records

# Tasks that make their items themselves, those of RULER aside, and two whose data come with the package.
STANDALONE = [name for name, task in TASKS.items() if not issubclass(task, (DataSetTask, RulerTask))]
STANDALONE += ["fairytaleqa", "qmsum"]


def make_items(name, data=None, limit=4):
    haystacks = default_haystacks()
    request = TaskRequest(lambda text: len(text.split()), limit, 0, data, haystacks, (600, 1500))
    return list(create_task(name).items(request))


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_made_by_its_name_and_says_what_it_is(name):
    task = create_task(name)
    assert type(task) is TASKS[name]
    assert task.name == name
    assert task.description
    assert task.metric
    assert task.kind in ("generate", "choose", "continue")
    assert task.max_new_tokens > 0


def test_a_task_of_a_file_is_made_by_what_is_asked_and_the_file():
    answers, recall = create_task("answers=a.jsonl"), create_task("recall=b/c=d.jsonl")
    assert (type(answers), answers.name) == (AnswersTask, "answers=a.jsonl")
    assert (type(recall), str(recall.file)) == (RecallTask, "b/c=d.jsonl")


@pytest.mark.parametrize("name", ["poems", "answers", "answers=", "fairytaleqa=x", ""])
def test_an_unknown_task_is_told_which_there_are(name):
    with pytest.raises(
        E2LLMError, match=r"choose from: .*fairytaleqa, .*answers=FILE, recall=FILE, restatement=FILE"
    ) as error:
        create_task(name)
    assert f"unknown task {name!r}" in str(error.value)


@pytest.mark.parametrize("name", STANDALONE)
def test_items_without_data_are_made_from_what_is_shipped(name):
    items = make_items(name)
    assert items
    assert len({item.id for item in items}) == len(items)
    for item in items:
        assert item.task == name
        assert item.context.strip()
        assert item.prompt.strip()
        assert item.references[0].strip()
        assert item.groups["length_tokens"]
        assert all(0 <= start < end <= len(item.context) for start, end in item.evidence)


@pytest.mark.parametrize("name", STANDALONE)
def test_a_larger_limit_asks_the_items_of_a_smaller_one_too(name):
    few, many = make_items(name, limit=2), {item.id: item for item in make_items(name)}
    assert few
    assert len(few) < len(many)
    assert all(many[item.id] == item for item in few)


@pytest.mark.parametrize("name", STANDALONE)
def test_no_other_answer_scores_above_the_reference(name):
    task, item = create_task(name), make_items(name)[0]
    best, other = task.score(item, item.references[0]), task.score(item, "Nothing of that kind.")
    assert set(best) == set(other)
    assert task.kind == "continue" or best[task.metric] > other[task.metric]


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if issubclass(task, DataSetTask)])
def test_every_data_set_is_read_from_prepared_records(name, tmp_path):
    options = ("x", "y") if TASKS[name].kind == "choose" else ()
    record = Record("A text.", "Q?", "B", id="1", source=name, options=options)
    write_records(tmp_path / f"{name}-validation.jsonl", [record])
    (item,) = make_items(name, tmp_path)
    assert (item.task, item.context, item.references[0]) == (name, "A text.", "y" if options else "B")


def test_items_do_not_depend_on_the_hash_seed_of_python():
    script = (
        "from test_tasks import STANDALONE, make_items\n"
        "print([item for name in STANDALONE for item in make_items(name)])"
    )
    folder = __file__.rpartition("/")[0]
    outputs = [
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1]
    assert outputs[0].count("Item(") >= 4 * len(STANDALONE)


def test_listing_the_tasks_loads_no_heavy_library():
    heavy = {"torch", "transformers", "rouge_score", "pyarrow"}
    script = f"import sys, e2llm.evaluation.tasks; print({heavy} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_a_name_of_both_tasks_and_files_is_the_same_measure():
    shared = set(TASKS) & set(FILE_TASKS)
    assert shared == {"restatement"}
    assert all(
        (TASKS[name].metric, TASKS[name].kind) == (FILE_TASKS[name].metric, FILE_TASKS[name].kind)
        for name in shared
    )
