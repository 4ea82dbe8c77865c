"""The files of a folder that can be read as text: without what a `.gitignore` names and what is binary."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pathspec import GitIgnoreSpec

MAX_FILE_BYTES = 2 * 2**20
_SNIFF_BYTES = 8192
# Folders that hold no source of their own, whether a .gitignore says so or not; hidden ones are left out too.
_SKIPPED_FOLDERS = frozenset({"__pycache__", "node_modules", "venv", "site-packages"})
_GENERATED_ENDINGS = (".min.js", ".min.css", ".map", "-lock.json", ".lock")

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
    """What a folder holds.

    Attributes:
        files: Text files, sorted by path.
        skipped: How many others were left out, by reason.
    """

    files: list[Path] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(self.skipped.items()))
        left_out = f", skipped {self.skipped.total()} ({reasons})" if self.skipped else ""
        return f"{len(self.files)} file(s){left_out}"


def list_folder(folder: Path) -> FolderListing:
    """List the text files of a folder at any depth.

    Left out are: hidden files and folders, what a `.gitignore` (of the folder, one above it up to the root of
    the repository, or one below) names, `__pycache__`, `node_modules` and the like, links, binary files,
    empty ones, generated ones (minified, lock files), and files of more than 2 MiB.
    """
    listing = FolderListing()
    specs = list(_specs_above(folder.resolve()))
    for file in _walk(folder, folder.resolve(), specs, listing):
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


Spec = tuple[Path, GitIgnoreSpec]


def _specs_above(folder: Path) -> Iterator[Spec]:
    """The .gitignore files of the folders above, from the root of the repository down; none outside one."""
    parents = list(folder.parents)
    root = next((place for place, item in enumerate([folder, *parents]) if (item / ".git").exists()), None)
    if root is None or root == 0:
        return
    for parent in reversed(parents[:root]):
        yield from _spec_of(parent)


def _spec_of(folder: Path) -> Iterator[Spec]:
    file = folder / ".gitignore"
    if file.is_file():
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        yield folder, GitIgnoreSpec.from_lines(lines)


def _is_ignored(path: Path, specs: list[Spec], is_folder: bool) -> bool:
    """The last .gitignore that says anything decides, as in git."""
    for base, spec in reversed(specs):
        name = path.relative_to(base).as_posix() + ("/" if is_folder else "")
        verdict = spec.check_file(name).include
        if verdict is not None:
            return verdict
    return False


def _walk(shown: Path, real: Path, specs: list[Spec], listing: FolderListing) -> Iterator[Path]:
    """Files below a folder that nothing rules out by name; `shown` is its path as the user gave it."""
    specs = [*specs, *_spec_of(real)]
    with os.scandir(real) as entries:
        items = sorted(entries, key=lambda entry: entry.name)
    for entry in items:
        path = real / entry.name
        is_folder = entry.is_dir(follow_symlinks=False)
        if entry.is_symlink():
            listing.skipped["links"] += 1
        elif entry.name.startswith(".") or (is_folder and entry.name in _SKIPPED_FOLDERS):
            if not is_folder:
                listing.skipped["hidden"] += 1
        elif _is_ignored(path, specs, is_folder):
            if not is_folder:
                listing.skipped["ignored"] += 1
        elif is_folder:
            yield from _walk(shown / entry.name, path, specs, listing)
        elif entry.is_file(follow_symlinks=False):
            yield shown / entry.name


def _why_skipped(file: Path) -> str | None:
    """The reason for which a file's content is not read, or None."""
    if file.name.lower().endswith(_GENERATED_ENDINGS):
        return "generated"
    size = file.stat().st_size
    if size > MAX_FILE_BYTES:
        return "too large"
    data = file.read_bytes()
    if b"\0" in data[:_SNIFF_BYTES]:
        return "binary"
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return "binary"
    return None if text.strip() else "empty"
