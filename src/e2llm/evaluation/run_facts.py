"""What a run was made of and with, and what a reader of its scores must know."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from e2llm.evaluation.items import Task
from e2llm.evaluation.likelihood_tasks import CONTINUATION_PROMPT, PerplexityTask, RestatementTask
from e2llm.evaluation.record_sources import find_place, find_records
from e2llm.evaluation.record_tasks import DataSetTask, RecordsTask
from e2llm.evaluation.restated_records import RestatedRecordsTask
from e2llm.evaluation.run_settings import RunSettings
from e2llm.evaluation.streaming_window import StreamingSystem
from e2llm.evaluation.systems import FullSystem, HybridSystem, PassageSystem, System, TruncateSystem
from e2llm.measuring import describe_machine

_VERSIONS = ("e2llm", "torch", "transformers", "python")
_GIVES_TEXT = (FullSystem, TruncateSystem, PassageSystem, HybridSystem, StreamingSystem)


def describe_session(device: torch.device, command: str) -> dict[str, Any]:
    """When and with what a run was started or went on."""
    facts = describe_machine(device)
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "commit": facts.pop("commit"),
        "versions": {name: facts.pop(name) for name in _VERSIONS},
        "machine": facts,
    }


def provenance(settings: RunSettings, notes: Sequence[str]) -> dict[str, Any]:
    """The settings with what the last session ran on; earlier ones are told where they differ."""
    content = asdict(settings)
    sessions: list[dict[str, Any]] = [dict(session) for session in content.pop("sessions")]
    content["tasks"] = {
        name: facts["data_sha256"] for name, facts in content["tasks"].items() if facts["data_sha256"]
    }
    content["data_sha256"] = content.pop("tasks")
    if not content["other_models"]:
        del content["other_models"]
    facts = {**sessions[-1], "started": sessions[0]["started"], **content}
    if len(sessions) > 1:
        facts["num_sessions"] = len(sessions)
        for key in ("commit", "versions", "machine"):
            others = _others(sessions, key)
            if others:
                facts[f"earlier_{key}"] = others
    return {**facts, "notes": list(notes)} if notes else facts


def _others(sessions: Sequence[Mapping[str, Any]], key: str) -> list[Any]:
    """Values of earlier sessions that are not the last one's, each once."""
    found: list[Any] = []
    for session in sessions[:-1]:
        if session[key] not in [*found, sessions[-1][key]]:
            found.append(session[key])
    return found


def hash_of_texts(texts: Iterable[str]) -> str:
    """SHA-256 over texts in their order."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def hash_of_data(task: Task, data: Path | None) -> str | None:
    """SHA-256 of the file that a task's items come from; None where they are generated, or it is a folder.

    Raises:
        E2LLMError: If the task needs a data set that is not there.
        FileNotFoundError: If the file is not there.
    """
    place = None
    if isinstance(task, RecordsTask):
        place = task.existing_file()
    elif isinstance(task, DataSetTask):
        find_records(task.name, data)  # says what to do where there is none
        place = find_place(task.name, data)
    if place is None or not place.is_file():
        return None
    with place.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def what_to_know(tasks: Iterable[Task], systems: Mapping[str, System]) -> list[str]:
    """What some systems do in tasks that ask no question, in sentences."""
    choosing = [label for label, system in systems.items() if _chooses_by_question(system)]
    showing = [label for label, system in systems.items() if isinstance(system, _GIVES_TEXT)]
    notes = []
    for task in tasks:
        if isinstance(task, PerplexityTask) and choosing:
            notes.append(
                f"{task.name} asks no question: {', '.join(choosing)} chose passages by the words "
                f"{CONTINUATION_PROMPT!r} alone, which says nothing of their way to choose."
            )
        if isinstance(task, RestatementTask | RestatedRecordsTask) and showing:
            notes.append(
                f"{task.name}: {', '.join(showing)} had the text itself before them and could copy it, "
                "which is another task than restating it from soft tokens."
            )
    return notes


def _chooses_by_question(system: System) -> bool:
    return isinstance(system, PassageSystem | HybridSystem) or bool(getattr(system, "expand", 0))
