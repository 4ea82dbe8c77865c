"""Schema-Guided Dialogue (Rastogi et al. 2020, arXiv 1909.05855): exact facts said in a conversation."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from e2llm.data.converter import Converter
from e2llm.data.source_files import check_keys, read_json, read_json_lines
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
_Turn = tuple[str, str, dict[str, list[str]]]  # speaker, utterance, what is known of the user's wishes


@dataclass
class SgdConverter(Converter):
    """One record per slot of a dialogue: what the user asked for, in the words of the dialogue.

    Left out: wishes that changed on the way, yes-or-no slots, and values that nobody says.
    """

    name = "sgd"
    description = "whole dialogues with an assistant: what date, city, name or number was asked for"
    licence = "CC BY-SA 4.0"
    home = "https://github.com/google-research-datasets/dstc8-schema-guided-dialogue"
    layout = (
        "the repository's folder with {train,dev,test}/dialogues_*.json, "
        "or *{train,dev,test}.jsonl with keys id, turns"
    )
    splits = ("train", "validation", "test", "all")

    def _records(self, source: Path, split: str) -> Iterator[Record]:
        for part in self._present_parts(source, _PARTS[split]):
            official = sorted((source / part).glob("dialogues_*.json"))
            if official:
                for path in official:
                    yield from self._official(path, part)
            else:
                for path in sorted(source.glob(f"*{part}.jsonl")):
                    yield from self._rows(path, part)

    def _present_parts(self, source: Path, parts: tuple[str, ...]) -> list[str]:
        present = [
            part
            for part in parts
            if any((source / part).glob("dialogues_*.json")) or any(source.glob(f"*{part}.jsonl"))
        ]
        if not present:
            raise self._missing_error(source / parts[0] / "dialogues_*.json")
        return present

    def _official(self, path: Path, part: str) -> Iterator[Record]:
        for number, dialogue in enumerate(read_json(path)):
            place = f"{path}: dialogue {number}"
            check_keys(dialogue, ("dialogue_id", "turns"), place)
            turns: list[_Turn] = []
            for turn in dialogue["turns"]:
                check_keys(turn, ("speaker", "utterance", "frames"), place)
                slots: dict[str, list[str]] = {}
                for frame in turn["frames"]:
                    slots.update(frame.get("state", {}).get("slot_values", {}))
                turns.append((turn["speaker"], turn["utterance"], slots))
            yield from self._dialogue(f"{part}:{dialogue['dialogue_id']}", turns)

    def _rows(self, path: Path, part: str) -> Iterator[Record]:
        for number, dialogue in read_json_lines(path, ("id", "turns")):
            turns: list[_Turn] = []
            for turn in dialogue["turns"]:
                check_keys(turn, ("speaker", "utterance"), f"{path}:{number}")
                turns.append((turn["speaker"], turn["utterance"], turn.get("slots", {})))
            yield from self._dialogue(f"{part}:{dialogue['id']}", turns)

    def _dialogue(self, identifier: str, turns: list[_Turn]) -> Iterator[Record]:
        context = "\n".join(
            f"{_SPEAKERS.get(speaker, speaker)}: {' '.join(utterance.split())}"
            for speaker, utterance, _ in turns
        )
        for slot, values in self._steady_slots(turns).items():
            said = [value for value in values if _find(context, value) is not None]
            if not said:
                self.skipped["value is not said in the dialogue"] += 1
                continue
            yield self._question(f"{identifier}:{slot}", slot, context, said)

    def _steady_slots(self, turns: list[_Turn]) -> dict[str, list[str]]:
        """The slots with one wish throughout, with all its spellings; the others are counted."""
        known: dict[str, list[str]] = {}
        changed: set[str] = set()
        for _, _, slots in turns:
            for slot, values in slots.items():
                before = known.setdefault(slot, list(values))
                if not set(before).intersection(values):
                    changed.add(slot)
                before.extend(value for value in values if value not in before)
        if changed:
            self.skipped["wish changed in the dialogue"] += len(changed)
        steady = {slot: values for slot, values in known.items() if slot not in changed}
        exact = {
            slot: values
            for slot, values in steady.items()
            if not _NO_VALUES.intersection(map(str.lower, values))
        }
        if len(exact) < len(steady):
            self.skipped["yes, no or don't care"] += len(steady) - len(exact)
        return exact

    def _question(self, identifier: str, slot: str, context: str, said: list[str]) -> Record:
        words = _SLOT_WORDS.get(slot, slot.replace("_", " "))
        start = _find(context, said[0])
        assert start is not None  # said holds only values that were found
        return Record(
            context,
            random.Random(identifier).choice(_QUESTIONS).format(slot=words),
            said[0],
            references=tuple(said[1:]),
            evidence=((start, start + len(said[0])),),
            id=identifier,
            source=self.name,
        )


def _find(context: str, value: str) -> int | None:
    """Where the dialogue says a value as a word of its own; the digit 2 is not said by `12`."""
    start = context.find(value)
    while start >= 0:
        end = start + len(value)
        if not (context[start - 1 : start].isalnum() or context[end : end + 1].isalnum()):
            return start
        start = context.find(value, start + 1)
    return None
