"""settings.json: what fixes the answers of a run, and whether a folder may go on under other settings."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from e2llm.errors import E2LLMError
from e2llm.evaluation.run_files import PREDICTIONS_NAME, Text, why_refused
from e2llm.files import write_atomically

SETTINGS_NAME = "settings.json"

_NOT_COMPARED = frozenset({"model", "sessions"})
_GROWING = frozenset({"tasks", "systems", "other_models", "limit"})


@dataclass(frozen=True)
class RunSettings:
    """All that the answers of a run depend on.

    Attributes:
        model: As it was named; only `model_sha256` counts.
        model_sha256: Fingerprint of the model (`modeling.identity.model_fingerprint`).
        other_models: Fingerprints of the models that systems name, by their names.
        tasks: By name, `max_new_tokens` and `data_sha256`, the hash of the file that its items come from;
            None where they are generated or come from a folder.
        systems: Labels.
        limit: Most items of a task, for generated tasks of each length.
        lengths: Of generated contexts, in decoder tokens.
        seed: Of all draws.
        budget: Decoder positions of input and answer; None for the decoder's window.
        chunk_size_chars: Longest chunk.
        precision: Of the decoder's weights.
        device: Kind of device, `cpu` or `cuda`.
        haystacks_sha256: Hash of the texts that generated tasks hide things in.
        sessions: One for every time that the run was started or went on: when, with which command, versions
            and machine.
    """

    model: Text
    model_sha256: str
    other_models: dict[Text, str]
    tasks: dict[Text, dict[str, Any]]
    systems: list[Text]
    limit: int
    lengths: list[int]
    seed: int
    budget: int | None
    chunk_size_chars: int
    precision: str
    device: str
    haystacks_sha256: str
    sessions: list[dict[str, Any]]

    def write(self, folder: Path) -> None:
        """Write settings.json into a folder."""
        content = json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"
        write_atomically(folder / SETTINGS_NAME, content.encode("utf-8", "surrogatepass"))


def read_settings(folder: Path) -> RunSettings | None:
    """The settings of the run in a folder; None where no run was begun.

    Raises:
        E2LLMError: If the folder is a file, holds predictions without settings, or the settings are damaged.
    """
    if folder.exists() and not folder.is_dir():
        raise E2LLMError(f"{folder} is a file; name a folder with -o")
    file = folder / SETTINGS_NAME
    if not file.is_file():
        predictions = folder / PREDICTIONS_NAME
        if predictions.exists() and predictions.stat().st_size:
            raise E2LLMError(
                f"{folder} holds {PREDICTIONS_NAME} but no {SETTINGS_NAME}, so nobody knows how it was made; "
                "name another folder with -o"
            )
        return None
    try:
        return TypeAdapter(RunSettings).validate_python(json.loads(file.read_bytes()))
    except ValueError as error:
        what = why_refused(error) if isinstance(error, ValidationError) else str(error)
        raise E2LLMError(f"{file} is not the settings of a run: {what}; name another folder") from error


def check_same(before: RunSettings, now: RunSettings, folder: Path) -> None:
    """Whether a run may go on: nothing that its answers depend on has changed; it may have grown.

    Args:
        before: The settings that the folder has.
        now: The new ones, with at least the tasks and systems of the old ones.
        folder: For the error.

    Raises:
        E2LLMError: If not; it names each setting that differs, with both values.
    """
    old, new = asdict(before), asdict(now)
    changes = [
        f"{key}: {old[key]!r} there, {new[key]!r} now"
        for key in old
        if key not in _NOT_COMPARED | _GROWING and old[key] != new[key]
    ]
    for key in ("tasks", "other_models"):
        changes += [
            f"{key}, {name}: {value!r} there, {new[key].get(name)!r} now"
            for name, value in old[key].items()
            if new[key].get(name) != value
        ]
    if now.limit < before.limit:
        changes.append(f"limit: {before.limit} there, {now.limit} now (it may only grow)")
    if changes:
        raise E2LLMError(
            f"{folder} holds a run with other settings ({'; '.join(changes)}); give the same ones to go on, "
            "or name another folder with -o"
        )


def joined(before: Sequence[str], now: Sequence[str]) -> list[str]:
    """Names of both in order, each once."""
    return list(dict.fromkeys([*before, *now]))
