"""An option that a message names is one of a command that can print the message."""

import ast
import re
import sys
from pathlib import Path

import typer

from e2llm.cli import main

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import size

# `e2llm store info --model x`, or an option alone; names after a word or a dash are not options.
COMMAND = re.compile(r"e2llm ([a-z]+)\b")
OPTION = re.compile(r"(?<![\w.-])--[a-z][a-z-]+(?![\w])")
OTHERS = re.compile("pip install|llama-gguf-split|ray start|torchrun|vllm")  # their options are their own
STARTS_OTHERS = {"e2llm.bench.serving", "e2llm.cli.export"}  # command lines for `serve` and for vLLM


def commands():
    """Options of each command, and the module that defines it; a group counts as one command."""
    found = {}
    for name, command in typer.main.get_command(main.app).commands.items():
        parts = [command, *getattr(command, "commands", {}).values()]
        options = {
            option for part in parts for item in part.params for option in (*item.opts, *item.secondary_opts)
        }
        callbacks = [part.callback for part in parts if part.callback is not None]
        found[name] = (options | {"--help", "--debug", "--version"}, callbacks[0].__module__)
    return found


def messages(file):
    """Strings of a file that are no docstrings, with their lines; pieces of an f-string are joined."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    inner = {
        id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield (
                node.lineno,
                "".join(part.value if isinstance(part, ast.Constant) else "0" for part in node.values),
            )
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and not {id(node)} & (docstrings | inner)
        ):
            yield node.lineno, node.value


def users(module, graph, found):
    """Names of the commands whose modules import a module or its folder, however far away."""
    if module == "e2llm.cli.main":
        return set(found)
    reached, waiting = set(), [module, module.rpartition(".")[0]]
    while waiting:
        name = waiting.pop()
        if name not in reached | {"e2llm", "e2llm.cli.main"}:
            reached.add(name)
            waiting += [other for other, imported in graph.items() if name in imported]
    return {name for name, (_, home) in found.items() if home in reached}


def wrong_options():
    found, graph = commands(), size.import_graph()
    for file in sorted(size.SOURCE.rglob("*.py")):
        module = size.name_of(file)
        for line, text in messages(file):
            if OTHERS.search(text) or module in STARTS_OTHERS:
                continue
            named = {name for name in COMMAND.findall(text) if name in found}
            known = sorted(named | users(module, graph, found))
            for option in OPTION.findall(text):
                if not any(option in found[name][0] for name in known):
                    yield f"{module}:{line} names {option}, which {', '.join(known) or 'no command'} lacks"


def test_a_message_names_no_option_that_its_command_lacks():
    assert list(wrong_options()) == []


def test_a_wrong_option_is_found(tmp_path, monkeypatch):
    lines = 'def f(name):\n    """Give --nothing."""\n    return f"{name}: name it with --encoding"\n'
    (tmp_path / "e2llm").mkdir()
    (tmp_path / "e2llm" / "documents.py").write_text(lines + 'x = "e2llm read --output y"\n')
    monkeypatch.setattr(size, "SOURCE", tmp_path)
    monkeypatch.setattr(size, "import_graph", lambda: {"e2llm.cli.reading.ask": {"e2llm.documents"}})
    assert list(wrong_options()) == ["e2llm.documents:3 names --encoding, which ask lacks"]
