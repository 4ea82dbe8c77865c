"""Read files and folders as documents, with errors that name the file.

In a folder, every text file is read, except binary files and those that a `.gitignore` excludes.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike, fspath
from pathlib import Path
from typing import BinaryIO, NamedTuple

from pathspec import GitIgnoreSpec

from e2llm.chunk_breaks import SENTENCE_END
from e2llm.data.source_files import decode_text, read_text
from e2llm.errors import E2LLMError

_MAX_HEADING_CHARS = 120
MAX_FILE_BYTES = 2 * 2**20
# Folders without the user's own source, even if no .gitignore names them; hidden ones are left out too.
_SKIPPED_FOLDERS = frozenset({"__pycache__", "node_modules", "venv", "site-packages"})
_GENERATED_ENDINGS = (".min.js", ".min.css", ".map", "-lock.json", ".lock", "tokenizer.json", "vocab.json")

CODE_SUFFIXES = frozenset(
    f".{suffix}"
    for line in (
        "py pyi js jsx mjs ts tsx go rs java kt scala c h cc cpp cxx hpp cs swift rb php sh bash lua r jl",
        "pl sql dart ex exs hs ml clj vue svelte css scss",
    )
    for suffix in line.split()
)


@dataclass(frozen=True, slots=True)
class Document:
    """A text with a name.

    Attributes:
        name: Such as a path.
        text: The text.
        kind: How to split it, `prose` or `code`; None for the processor's setting.
        heading: Text put before each chunk when it is read or given as text, such as a source file's path;
            not part of the chunk's span.
    """

    name: str
    text: str
    kind: str | None = None
    heading: str = ""


def documents_of(
    source: str | PathLike[str] | Document | Sequence[PathLike[str] | Document],
) -> list[Document]:
    """Return the documents of a text (`str`), a path, a document, or several paths and documents.

    Raises:
        FileNotFoundError: If a path does not exist.
        E2LLMError: If the source is anything else, or a file cannot be read as text.
    """
    if source is None or isinstance(source, bytes | int | float):
        raise E2LLMError(f"read takes strings, Paths and Documents, got {type(source).__name__}")
    items = [source] if isinstance(source, str | PathLike | Document) else list(source)
    documents = []
    for item in items:
        if isinstance(item, str):
            documents.append(Document("text", item))
        elif isinstance(item, Document):
            documents.append(item)
        else:
            documents += load_documents([Path(item)])
    return documents


def load_documents(paths: Sequence[str | PathLike[str]]) -> list[Document]:
    """Read files, and all text files of folders, in the order of their paths.

    Source code is split at definitions, and each of its chunks is headed by its path, as are the other
    files of a folder that has source code. `list_folder` describes which files are left out.

    Raises:
        FileNotFoundError: If a path is empty or does not exist.
        E2LLMError: If a file is empty, binary or not UTF-8, or a folder holds no text file.
    """
    return list(iter_documents(paths))


def iter_documents(paths: Sequence[str | PathLike[str]]) -> Iterator[Document]:
    """Yield the documents of `load_documents` one at a time, to bound memory."""
    for item in paths:
        if not fspath(item):  # Path("") is the current folder
            raise FileNotFoundError("the name of a file or folder is empty; give a path")
        path = Path(fspath(item))
        if not path.exists():
            raise FileNotFoundError(f"no such file or folder: {path}")
        if path.is_dir():
            yield from _iter_folder(path)
            continue
        text = read_text(path)
        if not text.strip():
            raise E2LLMError(f"{path}: the file is empty; there is nothing to read")
        yield _document(path, path.name, text) if is_code(path) else Document(str(path), text)


def _iter_folder(folder: Path) -> Iterator[Document]:
    listing = list_folder(folder)
    if not listing.files:
        raise E2LLMError(f"{folder}: the folder contains no text to read ({listing}); give files instead")
    has_code = any(is_code(file) for file in listing.files)
    for file in listing.files:
        name = file.relative_to(folder).as_posix()
        text = read_text(file)
        yield _document(file, name, text) if has_code else Document(str(file), text)


def _document(file: Path, name: str, text: str) -> Document:
    """Read a file of source code, or one in a folder with source code, with its path as heading."""
    name = "".join(mark if mark.isprintable() else "?" for mark in name)  # also what is no UTF-8
    if len(name) > _MAX_HEADING_CHARS:
        name = "..." + name[-_MAX_HEADING_CHARS:]
    return Document(str(file), text, "code" if is_code(file) else None, f"# File: {name}\n")


def read_stream(stream: BinaryIO, name: str) -> Document:
    """Read a stream of bytes to its end, as a file is read.

    Raises:
        E2LLMError: If the stream is empty or not UTF-8.
    """
    text = decode_text(stream.read(), name)
    if not text.strip():
        raise E2LLMError(f"{name} is empty; there is nothing to read")
    return Document(name, text)


# --- folders ---------------------------------------------------------------------------------------------


@dataclass
class FolderListing:
    """The text files of a folder, sorted by path, and the number left out for each reason."""

    files: list[Path] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(self.skipped.items()))
        left_out = f", skipped {self.skipped.total()} ({reasons})" if self.skipped else ""
        return f"{len(self.files)} file(s){left_out}"


def list_folder(folder: Path) -> FolderListing:
    """List the text files of a folder at any depth.

    Left out are: hidden files and folders, what a `.gitignore` (of the folder, one above it up to the root of
    the repository, or one below) or the repository's `.git/info/exclude` names, `__pycache__`, `node_modules`
    and the like, links, binary files, empty ones, generated ones (minified, lock files, vocabularies), and
    files of more than 2 MiB.
    """
    listing = FolderListing()
    rules = _rules_above(folder.resolve())
    for file in _walk(folder, folder.resolve(), rules, listing):
        reason = _why_skipped(file)
        if reason:
            listing.skipped[reason] += 1
        else:
            listing.files.append(file)
    listing.files.sort(key=lambda file: file.parts)
    return listing


def is_code(file: Path) -> bool:
    """Return whether a file is source code, by its suffix, or by its first line if it has no suffix."""
    if file.suffix:
        return file.suffix.lower() in CODE_SUFFIXES
    try:
        with file.open("rb") as stream:
            return stream.read(2) == b"#!"
    except OSError:
        return False


Rules = list[tuple[Path, GitIgnoreSpec]]  # the folder and lines of each .gitignore, the root's first


def _rules_above(folder: Path) -> Rules:
    """Return the ignore rules from the repository's root down to the folder; none outside a repository."""
    chain = [folder, *folder.parents]
    root = next((place for place, item in enumerate(chain) if (item / ".git").exists()), None)
    if root is None:
        return []
    rules = _rules_of(chain[root], ".git/info/exclude")
    return rules + [rule for parent in reversed(chain[1 : root + 1]) for rule in _rules_of(parent)]


def _rules_of(folder: Path, name: str = ".gitignore") -> Rules:
    """Return the ignore rules in a file of a folder."""
    file = folder / name
    if not file.is_file():
        return []
    lines = file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    try:
        return [(folder, GitIgnoreSpec.from_lines(lines))]
    except ValueError:  # a comment or an empty line
        return []


def _is_ignored(path: Path, rules: Rules, is_folder: bool) -> bool:
    """Return whether a path is ignored; as in git, the innermost rule that matches decides."""
    for folder, spec in reversed(rules):
        name = path.relative_to(folder).as_posix() + ("/" if is_folder else "")
        if (verdict := spec.check_file(name).include) is not None:
            return verdict
    return False


def _walk(shown: Path, real: Path, rules: Rules, listing: FolderListing) -> Iterator[Path]:
    """Yield the files below a folder whose names no rule excludes; `shown` is the path as given."""
    try:
        rules = [*rules, *_rules_of(real)]
        with os.scandir(real) as entries:
            items = sorted(entries, key=lambda entry: entry.name)
    except OSError:
        listing.skipped["unreadable"] += 1
        return
    for entry in items:
        path = real / entry.name
        is_folder = entry.is_dir(follow_symlinks=False)
        if entry.is_symlink():
            listing.skipped["links"] += 1
        elif entry.name.startswith(".") or (is_folder and entry.name in _SKIPPED_FOLDERS):
            if not is_folder:
                listing.skipped["hidden"] += 1
        elif _is_ignored(path, rules, is_folder):
            if not is_folder:
                listing.skipped["ignored"] += 1
        elif is_folder:
            yield from _walk(shown / entry.name, path, rules, listing)
        elif entry.is_file(follow_symlinks=False):
            yield shown / entry.name


def _why_skipped(file: Path) -> str | None:
    """Return the reason to skip a file because of its content, or None."""
    if file.name.lower().endswith(_GENERATED_ENDINGS):
        return "generated"
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            return "too large"
        data = file.read_bytes()
    except OSError:
        return "unreadable"
    if b"\0" in data:
        return "binary"
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return "binary"
    return None if text.strip() else "empty"


# --- inserting a sentence ----------------------------------------------------------------------------------


class Insertion(NamedTuple):
    """Documents after an insertion, the name of the changed one, and the start of the sentence in it."""

    documents: list[Document]
    name: str
    start: int


def insert_sentence(documents: Sequence[Document], sentence: str, depth: float = 0.5) -> Insertion:
    """Insert a sentence between two sentences near a depth.

    Args:
        documents: At least one with text.
        sentence: Any text.
        depth: 0 (before all text) to 1 (after it), counted in characters over all documents.

    Raises:
        E2LLMError: If the sentence or the text is empty.
    """
    total = sum(len(item.text) for item in documents)
    if not sentence.strip() or not total:
        raise E2LLMError("the sentence to insert or the text is empty; give both")
    index, at = 0, round(depth * total)
    while at > len(documents[index].text):
        at -= len(documents[index].text)
        index += 1
    document = documents[index]
    places = [0, *(match.end() for match in SENTENCE_END.finditer(document.text)), len(document.text)]
    place = min(places, key=lambda item: abs(item - at))
    before, after = document.text[:place], document.text[place:]
    before += "" if not before or before[-1].isspace() else " "
    after = after if not after or after[0].isspace() else f" {after}"
    new = replace(document, text=before + sentence.strip() + after)
    return Insertion([*documents[:index], new, *documents[index + 1 :]], document.name, len(before))
