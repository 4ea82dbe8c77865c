import pytest

from e2llm.errors import E2LLMError
from e2llm.evaluation.items import Item, TaskRequest
from e2llm.evaluation.tasks.code_completion import (
    CodeCompletionTask,
    SourceFile,
    completable_lines,
    read_repository,
)

MODULE = '''"""A made module."""

import made_library

# a comment that is long enough
TEXT = """
this line stands in a string
"""


def count_boats(harbour):
    """How many boats there are."""
    return len(harbour.boats)


def sail_away(harbour):
    harbour.boats.clear()
'''


def request(limit=5, seed=0, code=None, lengths=(100,)):
    return TaskRequest(lambda text: len(text.split()), limit, seed, lengths=lengths, code=code)


@pytest.fixture
def repository(tmp_path):
    for name in ("one", "two", "three"):
        lines = [f"{name}_value_{number} = make_value({number})" for number in range(60)]
        (tmp_path / f"{name}.py").write_text("\n".join(lines))
    (tmp_path / "notes.txt").write_text("not code")
    return tmp_path


def test_the_context_is_the_other_files_each_below_its_path(repository):
    for item in CodeCompletionTask().items(request(code=repository, lengths=(300,))):
        target = item.prompt.split("the file ")[1].split(".py")[0]
        others = {"one", "two", "three"} - {target}
        assert all(f"# {name}.py\n{name}_value_0 = make_value(0)\n" in item.context for name in others)
        assert f"{target}_value" not in item.context
        assert "not code" not in item.context


def test_the_prompt_ends_before_the_line_that_is_asked_for(repository):
    items = list(CodeCompletionTask().items(request(limit=20, code=repository)))
    for item in items:
        *_, last = item.prompt.splitlines()
        name, number = last.split(" = ")[0].rsplit("_", 1)
        assert item.references == (f"{name}_{int(number) + 1} = make_value({int(number) + 1})",)
    assert max(item.prompt.count("\n") for item in items) == 31  # a heading, an empty line and 30 lines


def test_the_files_stand_in_an_order_of_their_own_in_each_item(repository):
    items = list(CodeCompletionTask().items(request(limit=20, code=repository)))
    two = [item.context[:8] for item in items if "the file one.py" in item.prompt]
    assert set(two) == {"# two.py", "# three."}


def test_contexts_are_as_long_as_asked_for_and_a_short_one_begins_a_long_one(repository):
    items = list(CodeCompletionTask().items(request(limit=3, code=repository, lengths=(100, 200))))
    assert [item.id for item in items] == ["100-0", "100-1", "100-2", "200-0", "200-1", "200-2"]
    for short, long in zip(items[:3], items[3:], strict=True):
        assert len(short.context.split()) in range(97, 101)
        assert len(long.context.split()) in range(197, 201)
        assert long.context.startswith(short.context)
        assert (short.prompt, short.references) == (long.prompt, long.references)
    assert items[3].groups == {"length_tokens": 200}


def test_the_items_are_those_of_the_seed_and_do_not_depend_on_the_limit(repository):
    few, many, other = (
        list(CodeCompletionTask().items(request(limit, seed, repository)))
        for limit, seed in ((4, 1), (9, 1), (4, 2))
    )
    assert few == many[:4]
    assert few != other


def test_by_default_the_installed_package_is_completed():
    (item,) = CodeCompletionTask().items(request(limit=1, lengths=(2000,)))
    assert "of the file e2llm/" in item.prompt
    assert "# e2llm/" in item.context


def test_code_is_asked_for_and_not_words_about_it():
    file = SourceFile("made.py", MODULE.split("\n"))
    assert [file.lines[place] for place in completable_lines(file)] == [
        "def count_boats(harbour):",
        "    return len(harbour.boats)",
        "def sail_away(harbour):",
        "    harbour.boats.clear()",
    ]


def test_code_that_python_cannot_read_is_used_as_far_as_it_goes():
    lines = [
        *(f"number_{number} = first({number})" for number in range(8)),
        '"""never ends',
        "some words here",
    ]
    assert completable_lines(SourceFile("made.py", lines)) == [5, 6, 7]


@pytest.mark.parametrize(
    ("prediction", "line"),
    [
        ("  x = 1\ny = 2", "x = 1"),
        ("\n\n  x = 1", "x = 1"),
        ("```python\nx = 1\n```", "x = 1"),
        ("", ""),
        ("```", ""),
    ],
)
def test_the_first_line_of_code_counts(prediction, line):
    item = Item("code_completion", "1", "", "", (line,))
    assert CodeCompletionTask().score(item, prediction)["exact_match"] == 1.0


def test_a_line_is_scored_by_equality_and_edit_similarity():
    item = Item("code_completion", "1", "", "", ("x = 1",))
    score = CodeCompletionTask().score
    assert score(item, "  x = 1 \nmore") == {"exact_match": 1.0, "edit_similarity": 1.0}
    assert score(item, "x = 2") == {"exact_match": 0.0, "edit_similarity": 0.8}


def test_too_little_code_for_a_length_is_an_error(repository):
    with pytest.raises(E2LLMError, match=r"tokens of code beside .*\.py, but a context of 5000"):
        list(CodeCompletionTask().items(request(code=repository, lengths=(5000,))))


def test_a_folder_without_code_is_an_error(tmp_path):
    with pytest.raises(E2LLMError, match="has 0 Python files"):
        list(CodeCompletionTask().items(request(code=tmp_path)))


def test_a_length_too_short_is_an_error(repository):
    with pytest.raises(E2LLMError, match="lengths of at least 64 tokens, got 10"):
        list(CodeCompletionTask().items(request(code=repository, lengths=(100, 10))))


def test_paths_in_a_package_begin_with_its_name(tmp_path):
    package = tmp_path / "made"
    (package / "deep").mkdir(parents=True)
    (package / "__init__.py").write_text("x = 1\n")
    (package / "deep" / "part.py").write_text("y = 1\n")
    assert [file.path for file in read_repository(package)] == ["made/__init__.py", "made/deep/part.py"]
    assert [file.path for file in read_repository(package / "deep")] == ["part.py"]
