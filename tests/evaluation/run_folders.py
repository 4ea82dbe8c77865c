"""Folders of small runs, made by hand: what the runner would have written."""

import json
from pathlib import Path
from statistics import fmean
from typing import Any

COST = {
    "decoder_positions": 512,
    "context_tokens": 10234,
    "context_fraction": 0.05,
    "read_seconds": 0.3,
    "first_token_seconds": 0.11,
    "ms_per_token": 12.0,
    "peak_extra_bytes": 1_000_000,
    "new_tokens": 12,
}
PROVENANCE = {
    "commit": "0123456789abcdef",
    "versions": {"e2llm": "0.4.0", "torch": "2.13.0"},
    "seed": 0,
    "command": "e2llm eval --tasks qmsum -o run",
    "machine": {"cpu": "two cores", "cores": 2},
    "model": "smol",
    "model_sha256": "ab" * 32,
    "budget": 2048,
    "started": "2026-11-24T10:00:00+00:00",
}


def prediction(task: str, system: str, name: str, score: float | None, **changes: Any) -> dict[str, Any]:
    """A line of predictions.jsonl; a score of None is a refusal."""
    refused = score is None
    entry = {
        "system": system,
        "task": task,
        "id": name,
        "prompt": f"What of {name}?",
        "context_sha256": "cd" * 32,
        "prediction": "" if refused else f"{system} on {name}",
        "references": [f"truth of {name}"],
        "scores": {} if refused else {"f1": score},
        "groups": {},
        "cost": {} if refused else COST,
        "error": "the context has 9,000 tokens, there is room for 2,000" if refused else None,
    }
    return {**entry, **changes}


def write_run(folder: Path, predictions: list[dict[str, Any]], **changes: Any) -> Path:
    """Write predictions.jsonl and the scores.json that belongs to it; `changes` are keys of the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(entry) + "\n" for entry in predictions)
    (folder / "predictions.jsonl").write_text(lines, encoding="utf-8")
    pairs = dict.fromkeys((entry["task"], entry["system"]) for entry in predictions)
    rows = [_row(predictions, task, system) for task, system in pairs]
    tasks = {row["task"]: {"metric": row["metric"], "description": "made by hand"} for row in rows}
    scores = {"provenance": PROVENANCE, "tasks": tasks, "rows": rows, "comparisons": []}
    (folder / "scores.json").write_text(json.dumps({**scores, **changes}), encoding="utf-8")
    return folder


def pair_test(task: str, system_a: str, system_b: str, p_holm: float) -> dict[str, Any]:
    """An entry of `comparisons`."""
    return {
        "task": task,
        "metric": "f1",
        "system_a": system_a,
        "system_b": system_b,
        "difference": 0.25,
        "interval_95": [0.125, 0.375],
        "p_value": p_holm / 2,
        "p_holm": p_holm,
        "num_pairs": 2,
    }


def _row(predictions: list[dict[str, Any]], task: str, system: str) -> dict[str, Any]:
    own = [entry for entry in predictions if (entry["task"], entry["system"]) == (task, system)]
    answered = [entry for entry in own if entry["error"] is None]
    metric = next((name for entry in answered for name in entry["scores"]), "f1")
    names = dict.fromkeys(name for entry in answered for name in entry["scores"])
    values = {name: fmean(entry["scores"][name] for entry in answered) for name in names}
    keys = dict.fromkeys(key for entry in answered for key in entry["groups"])
    return {
        "task": task,
        "system": system,
        "metric": metric,
        "num_items": len(own),
        "num_refused": len(own) - len(answered),
        "values": values,
        "intervals_95": {name: [value - 0.05, value + 0.05] for name, value in values.items()},
        "cost": answered[0]["cost"] if answered else {},
        "groups": {key: _groups(answered, key, metric) for key in keys},
    }


def _groups(answered: list[dict[str, Any]], key: str, metric: str) -> dict[str, Any]:
    scores: dict[str, list[float]] = {}
    for entry in answered:
        if key in entry["groups"]:
            scores.setdefault(str(entry["groups"][key]), []).append(entry["scores"][metric])
    return {
        value: {"value": fmean(found), "interval": [min(found), max(found)], "num_items": len(found)}
        for value, found in scores.items()
    }
