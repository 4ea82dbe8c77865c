"""QMSum (Zhong et al. 2021, arXiv 2104.05938): queries on whole meetings, answered by a summary."""

import re

from e2llm.data.data_set import Conversion, Records, data_set

_FOLDERS = {"train": "train", "validation": "val", "test": "test"}
_TRANSCRIBER_MARK = re.compile(r"\{\s*\w+\s*\}|<\s*\w+\s*>")  # {vocalsound}, {disfmarker}, {gap}, ...
_SPELLED_LETTERS = re.compile(r"\b(?:[A-Za-z]_)+")  # L_C_D_ for LCD


@data_set(
    "qmsum",
    description="queries on whole meetings, answered by a summary",
    licence="MIT",
    home="https://github.com/Yale-LILY/QMSum",
    layout="the repository's folder with data/ALL/{train,val,test}/*.json, one meeting a file",
    splits=("train", "validation", "test"),
    published_counts={"train": 1257, "validation": 272, "test": 279},
)
def qmsum(run: Conversion) -> Records:
    """Yield one record per query, general or specific; the evidence of a specific one is its turns.

    Marks of the transcribers are removed and spelled letters joined, as the authors' code does.
    """
    name = f"{_FOLDERS[run.split]}/*.json"
    for path in run.files(f"data/ALL/{name}", name):
        meeting = run.json(path)
        context, turns = _transcript(meeting["meeting_transcripts"])
        for kind in ("general", "specific"):
            for number, row in enumerate(meeting[f"{kind}_query_list"], start=1):
                spans = [(int(first), int(last)) for first, last in row.get("relevant_text_span", [])]
                for first, last in spans:
                    if not 0 <= first <= last < len(turns):
                        raise run.error(f"relevant_text_span {first}-{last} of {len(turns)} turns")
                yield run.question(
                    context,
                    " ".join(row["query"].split()),
                    [" ".join(row["answer"].split())],
                    evidence=tuple((turns[first][0], turns[last][1]) for first, last in spans),
                    id=f"{path.stem}:{kind}-{number}",
                )


def _transcript(turns: list[dict[str, str]]) -> tuple[str, list[tuple[int, int]]]:
    """Return the meeting as `Speaker: text` lines and the character span of each turn."""
    lines: list[str] = []
    spans: list[tuple[int, int]] = []
    position = 0
    for turn in turns:
        line = f"{turn['speaker'].strip()}: {_clean(turn['content'])}".rstrip()
        spans.append((position, position + len(line)))
        lines.append(line)
        position += len(line) + 1
    return "\n".join(lines), spans


def _clean(text: str) -> str:
    text = _TRANSCRIBER_MARK.sub(" ", text)
    text = _SPELLED_LETTERS.sub(lambda match: match.group().replace("_", ""), text)
    return " ".join(text.split())
