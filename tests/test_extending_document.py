"""What docs/extending.md shows works: its Python runs, its commands run, and what it registers is of use."""

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from e2llm.chunking import CHUNKERS, split_text
from e2llm.data.registry import DATASETS
from e2llm.documents import READERS, read_bytes
from e2llm.evaluation.runner import RunRequest, evaluate
from e2llm.evaluation.systems import SYSTEMS
from e2llm.evaluation.tasks import TASKS
from e2llm.modeling.adapters import ADAPTERS
from e2llm.modeling.lora import LORA_TARGETS
from tiny_models import TEXT, tiny_model, tiny_processor

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
FENCES = re.findall(r"^```(\w*)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
BLOCKS = [block for language, block in FENCES if language == "python"]
LINES = [line for language, block in FENCES if not language for line in block.splitlines()]
COMMANDS = [line for line in LINES if line.startswith("python my_e2llm.py ")]
FILE = re.compile(r"# (my_\w+)\.py\n")
REGISTRIES = (ADAPTERS, CHUNKERS, TASKS, SYSTEMS, DATASETS, LORA_TARGETS, READERS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the modules of the page, imported, and what its commands want; undone at the end."""
    folder = tmp_path_factory.mktemp("extending")
    before = [dict(registry) for registry in REGISTRIES]
    modules = {found[1]: block for block in BLOCKS if (found := FILE.match(block))}
    for name, block in modules.items():
        (folder / f"{name}.py").write_text(block)
    (folder / "texts").mkdir()
    (folder / "texts" / "harbour.txt").write_text(TEXT)
    (folder / "texts" / "harbour.tsv").write_text(
        "How many boats?\tseven\nWhere is the key?\tunder the stone\n"
    )
    for name in ("recipes", "examples"):
        (folder / name).symlink_to(ROOT / name)
    sys.path.insert(0, str(folder))
    for name in modules:
        importlib.import_module(name)
    yield folder
    sys.path.remove(str(folder))
    for name in modules:
        del sys.modules[name]
    for registry, content in zip(REGISTRIES, before, strict=True):
        registry.clear()
        registry.update(content)


@pytest.fixture(autouse=True)
def there(folder, monkeypatch):
    monkeypatch.chdir(folder)


def test_the_page_has_a_module_of_each_kind():
    assert len(COMMANDS) >= 5
    names = [found[1] for block in BLOCKS if (found := FILE.match(block))]
    kinds = ["adapter", "chunker", "dataset", "format", "system", "task"]
    assert sorted(names) == [f"my_{kind}" for kind in [*kinds[:3], "e2llm", *kinds[3:]]]
    assert all(f"import my_{kind}\n" in BLOCKS[0] for kind in kinds)


@pytest.mark.parametrize("number", [number for number, block in enumerate(BLOCKS) if not FILE.match(block)])
def test_the_python_runs(number, capsys):
    exec(compile(BLOCKS[number], f"docs/extending.md, Python {number}", "exec"), {})
    assert capsys.readouterr().out or "print(" not in BLOCKS[number]


@pytest.mark.parametrize("line", COMMANDS)
def test_the_command_runs(line, capsys):
    from e2llm.cli.main import entry_point

    code = entry_point(shlex.split(line)[2:])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    assert captured.out


def test_the_command_of_ones_own_knows_what_it_imports(folder):
    run = subprocess.run(
        [sys.executable, "my_e2llm.py", "eval", "--list"], cwd=folder, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert "tickets" in run.stdout
    assert "opening" in run.stdout


@pytest.mark.slow
def test_the_shared_tests_take_what_is_imported_first(folder):
    words = [shlex.split(line) for line in LINES if " -m pytest " in line]
    plugins, files, kinds = ([row[place] for row in words] for place in (4, 5, 7))
    options = [item for name in plugins for item in ("-p", name)]
    options += ["-p", "no:cacheprovider", "-o", "addopts=", "-v", "-k", " or ".join(kinds)]
    paths = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *files, *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout
    passed = [line for line in run.stdout.splitlines() if " PASSED " in line]
    counts = {kind: sum(kind in line for line in passed) for kind in kinds}
    assert len(counts) == 4
    assert min(counts.values()) >= 2, counts


def test_every_test_file_that_it_names_is_there():
    named = re.findall(r"tests/[\w/]+\.py", PAGE)
    assert len(named) >= 6
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_adapter_reads_a_text():
    from e2llm import Engine

    engine = Engine(tiny_model(adapter="linear"), tiny_processor())
    context = engine.read(TEXT)
    assert context.kept.shape[:2] == (len(context), 4)
    few, many = (engine.ask(context, "Where?", soft_tokens=count, max_new_tokens=2) for count in (1, 4))
    assert many.usage.soft_tokens == 4 * few.usage.soft_tokens == 4 * len(context)


def test_the_chunker_keeps_every_character_and_the_turns_whole():
    talk = "Mira: I counted seven boats.\nJon: Nobody told me. When?\nMira: At nine.\n" * 4
    chunks = split_text(talk, chunk_size_chars=70, kind="turns")
    assert "".join(chunk.text for chunk in chunks) == talk
    assert all(len(chunk.text) <= 70 for chunk in chunks)
    assert all(chunk.text.startswith(("Mira: ", "Jon: ")) for chunk in chunks)
    prose = split_text(TEXT, chunk_size_chars=70, kind="turns")
    assert prose == split_text(TEXT, chunk_size_chars=70, kind="prose")


def test_the_chunker_is_one_for_recipes_and_for_what_is_sent_to_a_server():
    from e2llm.serving.schemas import DocumentIn
    from e2llm.training.recipes.schema import ChunkingSection

    assert ChunkingSection(kind="turns").kind == DocumentIn(text="x", kind="turns").kind == "turns"
    assert "turns" in DocumentIn.model_json_schema()["properties"]["kind"]["anyOf"][0]["enum"]


def test_the_task_asks_for_what_stands_in_its_items_and_the_system_answers_them(engine, folder, tmp_path):
    request = RunRequest(
        tasks=["tickets"], systems=["opening:skip=1", "e2llm"], limit=2, lengths=[300], budget=200
    )
    scores = evaluate(request, tmp_path, lambda name: engine, progress=False)
    rows = [(row["system"], row["num_items"], row["num_refused"]) for row in scores["rows"]]
    assert rows == [("opening:skip=1", 2, 0), ("e2llm", 2, 0)]
    assert all(row["values"]["string_match"] >= 0 for row in scores["rows"])


def test_the_system_skips_passages_and_goes_back_to_them_last(engine):
    from e2llm.evaluation.items import Item
    from e2llm.evaluation.systems.base import Readings

    item = Item("made", "1", TEXT * 6, "Where is the key?", ("under the stone",))
    first, later = (
        SYSTEMS["opening"](engine, Readings(engine), 200, skip=skip).view(item, 8) for skip in (0, 3)
    )
    assert first.raw_spans[0][0] == 0
    assert later.raw_spans[0][0] == first.raw_spans[3][0]


def test_the_converter_makes_records_and_names_what_is_missing(folder, tmp_path):
    records = list(DATASETS["faq"]().convert(folder / "texts", "train"))
    assert [(record.id, record.answer) for record in records] == [
        ("harbour-1", "seven"),
        ("harbour-2", "under the stone"),
    ]
    (tmp_path / "alone.txt").write_text(TEXT)
    with pytest.raises(FileNotFoundError, match=r"alone\.tsv"):
        list(DATASETS["faq"]().convert(tmp_path, "train"))


def test_the_format_reads_places(folder):
    document = read_bytes(b"2026-01-02 One.\n2026-01-03 Two.\n", "boats.daylog")
    assert document.place_at(document.text.index("Two")) == "day 2026-01-03"
