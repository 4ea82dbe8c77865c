"""settings.json: everything that the answers of a run depend on, and whether a run may be resumed."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from typing_extensions import TypedDict  # pydantic takes that of the library from Python 3.12 on only

from e2llm.errors import E2LLMError
from e2llm.evaluation.run.predictions import PREDICTIONS_NAME, Text, read_file
from e2llm.files import write_atomically
from e2llm.measuring import describe_machine

SETTINGS_NAME = "settings.json"

_NOT_COMPARED = frozenset({"model", "sessions"})
_GROWING = frozenset({"tasks", "systems", "other_models", "limit"})
_VERSIONS = ("e2llm", "torch", "transformers", "python")


class TaskSettings(TypedDict):
    """What the answers to a task depend on; see `RunSettings.tasks`."""

    max_new_tokens: int
    data_sha256: str | None


class Session(TypedDict):
    """A start of a run; see `describe_session`."""

    started: str
    command: Text
    commit: str | None
    versions: dict[str, str]
    machine: dict[str, Any]


@dataclass(frozen=True)
class RunSettings:
    """The settings of a run.

    Attributes:
        model: Name of the model; only `model_sha256` is compared.
        model_sha256: Fingerprint of the model (`modeling.identity.model_fingerprint`).
        other_models: Fingerprints of the models that systems name, by their names.
        tasks: By name, `max_new_tokens` and `data_sha256`, the hash of the file that its items come from;
            None where they are generated or come from a folder.
        systems: Labels.
        limit: Most items of a task, for generated tasks of each length.
        lengths: Lengths of generated contexts, in decoder tokens.
        seed: Fixes all draws.
        budget: Decoder positions of input and answer; None for the decoder's window.
        chunk_size_chars: Longest chunk.
        precision: Precision of the decoder's weights.
        device: Kind of device, `cpu` or `cuda`.
        haystacks_sha256: Hash of the texts that generated tasks hide things in.
        sessions: One for each start of the run: when, with which command, versions and machine.
    """

    model: Text
    model_sha256: str
    other_models: dict[Text, str]
    tasks: dict[Text, TaskSettings]
    systems: list[Text]
    limit: int
    lengths: list[int]
    seed: int
    budget: int | None
    chunk_size_chars: int
    precision: str
    device: str
    haystacks_sha256: str
    sessions: Annotated[list[Session], Field(min_length=1)]

    def write(self, folder: Path) -> None:
        """Write settings.json into a folder."""
        content = json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"
        write_atomically(folder / SETTINGS_NAME, content.encode("utf-8", "surrogatepass"))

    def provenance(self, notes: Sequence[str]) -> dict[str, Any]:
        """Return the settings with commit, versions and machine of the last session and of earlier ones."""
        content = asdict(self)
        *earlier, last = content.pop("sessions")
        hashes = {name: facts["data_sha256"] for name, facts in content.pop("tasks").items()}
        content["data_sha256"] = {name: value for name, value in hashes.items() if value}
        facts = {**last, "started": self.sessions[0]["started"], **content}
        if earlier:
            facts["num_sessions"] = 1 + len(earlier)
        for key in ("commit", "versions", "machine"):
            values = [session[key] for session in earlier]
            others = [value for at, value in enumerate(values) if value not in [*values[:at], last[key]]]
            if others:
                facts[f"earlier_{key}"] = others
        return {**facts, "notes": list(notes)} if notes else facts


def read_settings(folder: Path) -> RunSettings | None:
    """Read the settings of the run in a folder; None if the folder has no run.

    Raises:
        E2LLMError: If the folder is a file, has predictions without settings, or the settings are damaged.
    """
    if folder.exists() and not folder.is_dir():
        raise E2LLMError(f"{folder} is a file; name a folder with -o")
    file = folder / SETTINGS_NAME
    if file.is_file():
        return read_file(RunSettings, file)
    predictions = folder / PREDICTIONS_NAME
    if predictions.exists() and predictions.stat().st_size:
        raise E2LLMError(
            f"{folder} has {PREDICTIONS_NAME} but no {SETTINGS_NAME}, so its settings are unknown; "
            "name another folder with -o"
        )
    return None


def check_same(before: RunSettings, now: RunSettings, folder: Path) -> None:
    """Check that a run may be resumed: nothing that its answers depend on has changed; it may have grown.

    Args:
        before: The settings in the folder.
        now: The new settings, with at least the tasks and systems of the old ones.
        folder: Named in the error.

    Raises:
        E2LLMError: If not; the message names each setting that differs, with both values.
    """
    old, new = asdict(before), asdict(now)
    pairs = {key: (old[key], new[key]) for key in old if key not in _NOT_COMPARED | _GROWING}
    for key in ("tasks", "other_models"):
        pairs |= {f"{key}, {name}": (value, new[key].get(name)) for name, value in old[key].items()}
    changes = [f"{key}: {was!r} there, {value!r} now" for key, (was, value) in pairs.items() if was != value]
    if now.limit < before.limit:
        changes.append(f"limit: {before.limit} there, {now.limit} now (it may only grow)")
    if changes:
        raise E2LLMError(
            f"{folder} holds a run with other settings ({'; '.join(changes)}); give the same ones to resume "
            "it, or name another folder with -o"
        )


def describe_session(device: torch.device, command: str) -> Session:
    """Return when and with which command, versions and machine a run is started or resumed."""
    facts = describe_machine(device)
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "commit": facts.pop("commit"),
        "versions": {name: facts.pop(name) for name in _VERSIONS},
        "machine": facts,
    }


def hash_of_texts(texts: Iterable[str]) -> str:
    """Return the SHA-256 over texts in their order."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def hash_of_file(file: Path | None) -> str | None:
    """Return the SHA-256 of a file; None for a folder, or without a path."""
    if file is None or not file.is_file():
        return None
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
