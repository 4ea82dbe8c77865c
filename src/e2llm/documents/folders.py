"""Folders: which of their files are read, and why the others are left out.

Of a folder every file with text is read, but for what a `.gitignore` names.
"""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pathspec import GitIgnoreSpec

from e2llm.documents.decoding import decode_text
from e2llm.documents.faults import MAX_BYTES
from e2llm.documents.readers import READERS, is_own, is_packed, suffix_of
from e2llm.errors import E2LLMError

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
    """The files of a folder to read, sorted by path, and how many others were left out, by reason."""

    files: list[Path] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(self.skipped.items()))
        left_out = f", skipped {self.skipped.total()} ({reasons})" if self.skipped else ""
        return f"{len(self.files)} file(s){left_out}"


def list_folder(folder: Path) -> FolderListing:
    """List the files of a folder that may be read, at any depth.

    Left out are: hidden files and folders, what a `.gitignore` (of the folder, one above it up to the root of
    the repository, or one below) or the repository's `.git/info/exclude` names, `__pycache__`, `node_modules`
    and the like, links, binary files, empty ones, generated ones (minified, lock files, vocabularies), and
    text files of more than 2 MiB.
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
    """The reason for which a file's content is not read, or None; a damaged one shows when it is read."""
    if file.name.lower().endswith(_GENERATED_ENDINGS):
        return "generated"
    suffix = suffix_of(file.name)
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            is_text = is_own(suffix) and not is_packed(stream.read(1024))
            if not is_text and suffix not in READERS:
                return "binary"  # such as an archive
            if size > (MAX_FILE_BYTES if is_text else MAX_BYTES):
                return "too large"
            if not is_text:
                return None if size else "empty"
            stream.seek(0)
            text = decode_text(stream.read(), str(file))
    except OSError:
        return "unreadable"
    except E2LLMError:
        return "binary"
    return None if text.strip() else "empty"
