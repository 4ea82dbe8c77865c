"""Schema-Guided Dialogue (Rastogi et al. 2020, arXiv 1909.05855): exact facts from a conversation."""

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from e2llm.data.data_set import Conversion, Records, data_set
from e2llm.records import Record

_PARTS = {"train": ("train",), "validation": ("dev",), "test": ("test",), "all": ("train", "dev", "test")}
_SPEAKERS = {"USER": "User", "SYSTEM": "Assistant"}
_NO_VALUES = {"dontcare", "true", "false"}
_QUESTIONS = (
    "What {slot} did the user ask for?",
    "Which {slot} was mentioned in the conversation?",
    "What was the {slot}?",
    "What is the {slot} that the user wanted?",
)
_SLOT_WORDS = {
    "where_to": "destination",
    "to": "destination",
    "from": "origin",
    "intent": "purpose",
    "passengers": "number of passengers",
    "travelers": "number of travelers",
}


@data_set(
    "sgd",
    description="whole dialogues with an assistant: what date, city, name or number was asked for",
    licence="CC BY-SA 4.0",
    home="https://github.com/google-research-datasets/dstc8-schema-guided-dialogue",
    layout=(
        "the repository's folder with {train,dev,test}/dialogues_*.json, "
        "or *{train,dev,test}.jsonl with keys id, turns"
    ),
    splits=("train", "validation", "test", "all"),
)
def sgd(run: Conversion) -> Records:
    """Yield one record per slot of a dialogue: the user's wish, in the words of the dialogue.

    Left out: wishes that changed on the way, yes-or-no slots, and values that nobody says.
    """
    parts = _PARTS[run.split]
    files = [(part, path) for part in parts for path in _files(run.source, part)]
    if not files:
        raise run.missing(run.source / parts[0] / "dialogues_*.json")
    for part, path in files:
        for identifier, turns in _dialogues(run, path):
            context = "\n".join(
                f"{_SPEAKERS.get(turn['speaker'], turn['speaker'])}: {' '.join(turn['utterance'].split())}"
                for turn in turns
            )
            for slot, values in _steady_slots(run, [turn["slots"] for turn in turns]).items():
                record = _question(run, f"{part}:{identifier}:{slot}", slot, context, values)
                if record is not None:
                    yield record


def _files(source: Path, part: str) -> list[Path]:
    return sorted((source / part).glob("dialogues_*.json")) or sorted(source.glob(f"*{part}.jsonl"))


def _dialogues(run: Conversion, path: Path) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield the id and the turns of each dialogue: speaker, utterance, and the user's wishes as slots."""
    if path.suffix == ".jsonl":
        for _, row in run.lines(path):
            yield row["id"], [{"slots": {}, **turn} for turn in row["turns"]]
        return
    for row in run.json(path):
        turns = row["turns"]
        for turn in turns:
            turn["slots"] = {}
            for frame in turn["frames"]:
                turn["slots"].update(frame.get("state", {}).get("slot_values", {}))
        yield row["dialogue_id"], turns


def _steady_slots(run: Conversion, turns: list[dict[str, list[str]]]) -> dict[str, list[str]]:
    """Return the slots with one wish throughout, with all its spellings; count the others."""
    known: dict[str, list[str]] = {}
    changed: set[str] = set()
    for slots in turns:
        for slot, values in slots.items():
            before = known.setdefault(slot, list(values))
            if not set(before).intersection(values):
                changed.add(slot)
            before.extend(value for value in values if value not in before)
    steady: dict[str, list[str]] = {}
    for slot, values in known.items():
        if slot in changed:
            run.skip("wish changed in the dialogue")
        elif _NO_VALUES.intersection(map(str.lower, values)):
            run.skip("yes, no or don't care")
        else:
            steady[slot] = values
    return steady


def _question(run: Conversion, name: str, slot: str, context: str, values: list[str]) -> Record | None:
    said = {value: match.span() for value in values if (match := _find(context, value))}
    if not said:
        run.skip("value is not said in the dialogue")
        return None
    answer, *references = said
    words = _SLOT_WORDS.get(slot, slot.replace("_", " "))
    prompt = random.Random(name).choice(_QUESTIONS).format(slot=words)
    evidence = (said[answer],)
    return run.record(context, prompt, answer, references=tuple(references), evidence=evidence, id=name)


def _find(context: str, value: str) -> re.Match[str] | None:
    """Find a value as a whole word: the dialogue does not say the digit 2 with `12`."""
    return re.search(rf"(?<![^\W_]){re.escape(value)}(?![^\W_])", context)
