"""Count the house: `make size`. Prints a Markdown table with the target of each figure.

Lines are those of `*.py` files in src, blank ones and comments included. A module has one importer if one
other file of src imports it; commands, data sets, tasks and systems, which a table lists, do not count. The
folder of data sets does not count as a large one. A circle is a set of files that import each other, late
imports and `TYPE_CHECKING` blocks included; tests/test_architecture.py refuses new ones.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
ASIDE = ("e2llm.cli.", "e2llm.data.sets.", "e2llm.evaluation.tasks.", "e2llm.evaluation.systems.")
TICS = re.compile(  # "is None" is Python
    r"\b(is none|are none|(?i:stands? (in|at|behind)|is told|of its own|of our own|in the place of|goes on"
    r"|anew|so many|what was got|cannot be had|no numbers))\b"
)


def name_of(file: Path) -> str:
    """Return the dotted name of a module."""
    parts = file.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(file: Path, *, late: bool = True, typing: bool = True) -> Iterator[tuple[str, int]]:
    """Yield the full names that a file imports, and their lines.

    Args:
        file: A file of the package.
        late: Whether imports in functions count.
        typing: Whether imports for type checkers alone count.
    """

    def visit(node: ast.AST) -> Iterator[tuple[str, int]]:
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = file.relative_to(SOURCE).parts[: -node.level] if node.level else ()
            base = ".".join([*package, *([node.module] if node.module else [])])
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and not typing:
            return
        elif late or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for child in ast.iter_child_nodes(node):
                yield from visit(child)

    yield from visit(ast.parse(file.read_text(encoding="utf-8")))


def import_graph() -> dict[str, set[str]]:
    """Return the modules of the package that each module imports, wherever the import is."""
    files = {name_of(file): file for file in SOURCE.rglob("*.py")}
    graph = {}
    for name, file in files.items():
        full = [found for found, _ in imported(file)]
        modules = {item if item in files else item.rpartition(".")[0] for item in full}
        graph[name] = modules & files.keys() - {name}
    return graph


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Return the sets of modules that reach each other (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            part = set(stack[stack.index(name) :])
            del stack[stack.index(name) :]
            if len(part) > 1:
                found.append(part)

    for name in sorted(graph):
        if name not in index:
            visit(name)
    return found


def count_options() -> int:
    """Count the options of all commands, `--help` aside."""
    from typer.main import get_command

    from e2llm.cli.main import app

    def visit(command: object) -> int:
        commands = getattr(command, "commands", {})
        own = sum(item.param_type_name == "option" and item.name != "help" for item in command.params)  # type: ignore[attr-defined]
        return own + sum(visit(item) for item in commands.values())

    return visit(get_command(app))


def count_recipe_keys() -> int:
    """Count the keys of a recipe that take a value, sections aside."""
    from pydantic import BaseModel

    from e2llm.training.recipes.schema import Recipe

    def visit(model: type[BaseModel], seen: frozenset[type]) -> int:
        total = 0
        for field in model.model_fields.values():
            inner = [item for item in types_in(field.annotation) if issubclass(item, BaseModel)]
            total += sum(visit(item, seen | {item}) for item in inner if item not in seen) if inner else 1
        return total

    def types_in(annotation: object) -> Iterator[type]:
        arguments = getattr(annotation, "__args__", ())
        if isinstance(annotation, type) and not arguments:
            yield annotation
        for item in arguments:
            yield from types_in(item)

    return visit(Recipe, frozenset())


def functions(file: Path) -> Iterator[int]:
    """Yield the length of each function in lines."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield (node.end_lineno or node.lineno) - node.lineno + 1


def words_of_documents() -> int:
    """Count the words of README and docs, without the API pages and the log."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    return sum(len(page.read_text(encoding="utf-8").split()) for page in pages if page.name != "api.md")


def main() -> None:
    """Print the table."""
    files = sorted(SOURCE.rglob("*.py"))
    graph = import_graph()
    importers: dict[str, set[str]] = defaultdict(set)
    for name, others in graph.items():
        for other in others:
            importers[other].add(name)
    modules = {name_of(file) for file in files if file.name != "__init__.py"}
    single = [name for name in modules if len(importers[name]) == 1 and not name.startswith(ASIDE)]
    folders: dict[Path, int] = defaultdict(int)
    for file in files:
        folders[file.parent] += file.name != "__init__.py"
    del folders[SOURCE / "e2llm" / "data" / "sets"]
    largest = max(folders, key=lambda folder: folders[folder])
    texts = {file: file.read_text(encoding="utf-8") for file in files}
    lines = {file: len(text.splitlines()) for file, text in texts.items()}
    rows = [
        ("files in src", len(files), ""),
        ("Python lines in src", sum(lines.values()), "24,000"),
        ("modules with one importer", len(single), "25"),
        (f"files in the largest folder ({largest.relative_to(SOURCE)})", folders[largest], "15"),
        ("recipe keys", count_recipe_keys(), "70"),
        ("command-line options", count_options(), "130"),
        ("words in README and docs", words_of_documents(), "22,000"),
        ("circles between files", len(circles(graph)), "0"),
        ("files over 400 lines", sum(count > 400 for count in lines.values()), "0"),
        ("functions over 60 lines", sum(n > 60 for file in files for n in functions(file)), "5"),
        ("phrases to avoid in src", sum(len(TICS.findall(text)) for text in texts.values()), "40"),
        (
            "Python lines in tests",
            sum(len(f.read_text().splitlines()) for f in (ROOT / "tests").rglob("*.py")),
            "",
        ),
    ]
    print("| | now | at most |\n|---|---|---|")
    for label, value, target in rows:
        print(f"| {label} | {value:,} | {target} |")


if __name__ == "__main__":
    main()
