"""Folders: which of their files are read, and why the others are left out.

Of a folder every file with text is read, but for what a `.gitignore` names.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pathspec import GitIgnoreSpec

from e2llm.documents.faults import LeftOut, max_bytes, summarize_left_out
from e2llm.documents.readers import READERS, suffix_of
from e2llm.documents.records import read_csv, read_plain
from e2llm.file_bytes import kind_of, open_file, special_file

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


@dataclass
class FolderListing:
    """The files of a folder to read, sorted by path, and those that were left out."""

    files: list[Path] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    def __str__(self) -> str:
        left_out = f", left out: {summarize_left_out(self.left_out)}" if self.left_out else ""
        return f"{len(self.files)} file(s){left_out}"


def list_folder(folder: Path) -> FolderListing:
    """List the files of a folder to read, at any depth, by their names, sizes and first bytes.

    Left out are: hidden files and folders, what a `.gitignore` (of the folder, one above it up to the root of
    the repository, or one below) or the repository's `.git/info/exclude` names, `__pycache__`, `node_modules`
    and the like, links, devices, pictures and programs, empty files, generated ones (minified, lock files,
    vocabularies), and text files of more than 2 MiB.
    """
    listing = FolderListing()
    rules = _rules_above(folder.resolve())
    for file in _walk(folder, folder.resolve(), rules, listing):
        if reason := _why_skipped(file):
            listing.left_out.append(LeftOut(str(file), reason))
        else:
            listing.files.append(file)
    listing.files.sort(key=lambda file: file.parts)
    return listing


def is_code(file: Path) -> bool:
    """Whether a file holds source code, by its suffix, or by its first line where it has none."""
    if file.suffix:
        return file.suffix.lower() in CODE_SUFFIXES
    try:
        with open_file(file) as stream:
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
    except OSError as error:
        listing.left_out.append(LeftOut(str(shown), f"cannot be opened: {error.strerror}"))
        return
    for entry in items:
        path = real / entry.name
        is_folder = entry.is_dir(follow_symlinks=False)
        is_hidden = entry.name.startswith(".") or (is_folder and entry.name in _SKIPPED_FOLDERS)
        if entry.is_symlink():
            reason = "link"
        elif is_hidden or _is_ignored(path, rules, is_folder):
            reason = "" if is_folder else "hidden" if is_hidden else "ignored"
        elif is_folder:
            yield from _walk(shown / entry.name, path, rules, listing)
            continue
        elif entry.is_file(follow_symlinks=False):
            yield shown / entry.name
            continue
        else:
            reason = f"is {special_file(path) or 'no file'}"
        if reason:
            listing.left_out.append(LeftOut(str(shown / entry.name), reason))


def _why_skipped(file: Path) -> str:
    """The reason for which a file's content is not read; a damaged one shows when it is read."""
    if file.name.lower().endswith(_GENERATED_ENDINGS):
        return "generated"
    try:
        size = file.stat().st_size
        with open_file(file) as stream:
            kind = kind_of(stream.read(1024) or b"")
    except OSError as error:
        return f"cannot be opened: {error.strerror}"
    if not size:
        return "empty"
    if kind is not None and kind.is_binary:
        return "binary"
    is_plain = READERS.get(suffix_of(file.name), read_plain) in (read_plain, read_csv)
    most = MAX_FILE_BYTES if is_plain and (kind is None or kind.is_text) else max_bytes()
    return f"has more than {most / 2**20:,.0f} MiB; name it to read it" if size > most else ""
