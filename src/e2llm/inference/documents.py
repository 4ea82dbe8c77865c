"""Documents: the files and folders that a user asks about, read as text with errors that name them.

Of a folder every text file is read, but for what a `.gitignore` names and what is binary.
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
# Folders that hold no source of their own, whether a .gitignore says so or not; hidden ones are left out too.
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
    """A text with the name under which its chunks are listed.

    Attributes:
        name: Such as a path.
        text: The text.
        kind: How it is split, `prose` or `code`; None for the processor's own way.
        heading: Text put before each chunk where it is read or given raw, such as the path of a source file;
            not part of the chunk's span.
    """

    name: str
    text: str
    kind: str | None = None
    heading: str = ""


def documents_of(
    source: str | PathLike[str] | Document | Sequence[PathLike[str] | Document],
) -> list[Document]:
    """The texts, with their names, of a text (`str`), a path, a document, or several paths and documents.

    Raises:
        FileNotFoundError: If a path does not exist.
        E2LLMError: If it is something else, or a file cannot be read as text.
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

    Source code is split at its definitions, and each of its chunks is headed by its path, as are the other
    files of a folder that holds source code. `list_folder` says what a folder leaves out.

    Raises:
        FileNotFoundError: If a path is empty or does not exist.
        E2LLMError: If a file is empty, binary or not UTF-8, or a folder holds no text file.
    """
    return list(iter_documents(paths))


def iter_documents(paths: Sequence[str | PathLike[str]]) -> Iterator[Document]:
    """What `load_documents` reads, one document at a time in memory."""
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
    """A file of source code, or one beside such: each chunk says where it comes from."""
    name = "".join(mark if mark.isprintable() else "?" for mark in name)  # also what is no UTF-8
    if len(name) > _MAX_HEADING_CHARS:
        name = "..." + name[-_MAX_HEADING_CHARS:]
    return Document(str(file), text, "code" if is_code(file) else None, f"# File: {name}\n")


def read_stream(stream: BinaryIO, name: str) -> Document:
    """Read a stream of bytes to its end, by the rules of files.

    Raises:
        E2LLMError: If there is no text, or it is not UTF-8.
    """
    text = decode_text(stream.read(), name)
    if not text.strip():
        raise E2LLMError(f"{name} is empty; there is nothing to read")
    return Document(name, text)


# --- folders ---------------------------------------------------------------------------------------------


@dataclass
class FolderListing:
    """The text files of a folder, sorted by path, and how many others were left out, by reason."""

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
    """Whether a file holds source code, by its suffix, or by its first line where it has none."""
    if file.suffix:
        return file.suffix.lower() in CODE_SUFFIXES
    try:
        with file.open("rb") as stream:
            return stream.read(2) == b"#!"
    except OSError:
        return False


Rules = list[tuple[Path, GitIgnoreSpec]]  # of each .gitignore its folder and its lines, the root's first


def _rules_above(folder: Path) -> Rules:
    """The rules of the repository and of the folders above, from its root down; none outside a repository."""
    chain = [folder, *folder.parents]
    root = next((place for place, item in enumerate(chain) if (item / ".git").exists()), None)
    if root is None:
        return []
    rules = _rules_of(chain[root], ".git/info/exclude")
    return rules + [rule for parent in reversed(chain[1 : root + 1]) for rule in _rules_of(parent)]


def _rules_of(folder: Path, name: str = ".gitignore") -> Rules:
    """The rules that a file of a folder states for it."""
    file = folder / name
    if not file.is_file():
        return []
    lines = file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    try:
        return [(folder, GitIgnoreSpec.from_lines(lines))]
    except ValueError:  # a line that is no pattern
        return []


def _is_ignored(path: Path, rules: Rules, is_folder: bool) -> bool:
    """The innermost file that speaks of a path decides, as in git."""
    for folder, spec in reversed(rules):
        name = path.relative_to(folder).as_posix() + ("/" if is_folder else "")
        if (verdict := spec.check_file(name).include) is not None:
            return verdict
    return False


def _walk(shown: Path, real: Path, rules: Rules, listing: FolderListing) -> Iterator[Path]:
    """Files below a folder that nothing rules out by name; `shown` is its path as the user gave it."""
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
    """The reason for which a file's content is not read, or None."""
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
    """Documents with a sentence put into one of them: its name, and the sentence's first character there."""

    documents: list[Document]
    name: str
    start: int


def insert_sentence(documents: Sequence[Document], sentence: str, depth: float = 0.5) -> Insertion:
    """Put a sentence between two sentences near a depth.

    Args:
        documents: At least one with text.
        sentence: Any text.
        depth: 0 (before all text) to 1 (after it), counted in characters over all documents.

    Raises:
        E2LLMError: If the sentence is empty, or there is no text.
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
