"""Prose to restate, cut to pieces at natural breaks, and facts hidden in it."""

import random
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from smol_jobs import SEED, Job, by_hash, converted, with_test
from smol_parts import Part
from smol_raw import Raw
from smol_sets import Named
from smol_text import pieces, unwrap

from e2llm.data.sets.needles import generate_needles
from e2llm.records import Record

HELD_OUT_AUTHOR = "Montgomery"  # Anne of Green Gables is read in the examples and in the demo
HELD_OUT_WORDS = re.compile(r"Avonlea|Green Gables")
SHORTEST, LONGEST = 2000, 8000
_SHINGLE_WORDS, _STRIDE, _MAX_SHARED = 10, 3, 2
_WORD = re.compile(r"\w+")


class Guard:
    """Tells pieces of texts that are held out, also of another edition of the same story."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._shingles: set[int] = set()
        for text in texts:
            self._shingles.update(_shingles(text, 1))

    def is_held(self, text: str) -> bool:
        """Whether a text shares several runs of ten words with one that is held out, or names its places."""
        if HELD_OUT_WORDS.search(text):
            return True
        shared = 0
        for shingle in _shingles(text, _STRIDE):
            shared += shingle in self._shingles
            if shared > _MAX_SHARED:
                return True
        return False


def _shingles(text: str, stride: int) -> Iterator[int]:
    words = _WORD.findall(text.lower())
    for place in range(0, len(words) - _SHINGLE_WORDS + 1, stride):
        yield hash(" ".join(words[place : place + _SHINGLE_WORDS]))


def cut(named: Iterable[Named], count: int) -> Iterator[Named]:
    """Yield up to `count` text-only pieces of every document; documents that come again are passed over."""
    seen = set()
    for document, record in named:
        if document in seen:
            continue
        seen.add(document)
        text = re.sub(r"(?m)^#+ ", "", record.context)
        text = "\n".join(line.strip() for line in text.split("\n"))
        text = unwrap(re.sub(r"\n{3,}", "\n\n", text)).replace("undefined", "")
        rng = random.Random(f"{SEED}/prose/{document}")
        for number, piece in enumerate(pieces(text, count, rng, SHORTEST, LONGEST), start=1):
            yield document, Record(piece, "", "", id=f"{document}:{number}")


def books(raw: Raw, name: str, for_children: bool | None = None) -> Iterator[Named]:
    """Yield whole books, but those of the author of the book that is held out."""
    for row in raw.parquet(name):
        is_wanted = for_children is None or row["childrens_author"] == for_children
        if is_wanted and HELD_OUT_AUTHOR not in (row["author"] or "") and "Anne" not in row["title"]:
            yield row["id"], Record(row["text"], "", "", id=row["id"])


def _whole(
    dataset: str, archive: str, split: str = "train", folder: str | None = None
) -> Callable[[Raw], Iterator[Named]]:
    return lambda raw: converted(raw, dataset, archive, split, folder)


def _prose_job(
    name: str, dataset: str, make: Callable[[Raw], Iterable[Named]], count: int, share: float = 1.0
) -> Job:
    return Job(f"prose-{name}", dataset, lambda raw: by_hash(dataset, cut(make(raw), count)), share=share)


def _only_train(dataset: str, archive: str, count: int) -> Job:
    def make(raw: Raw) -> Iterator[tuple[Part, str, Record]]:
        return with_test(dataset, cut(converted(raw, dataset, archive), count), ())

    return Job(f"prose-{dataset}", dataset, make)


PROSE_JOBS: list[Job] = [
    _prose_job("children", "classic_books", partial(books, name="classic_books", for_children=True), 75),
    _prose_job("classics", "classic_books", partial(books, name="classic_books", for_children=False), 7),
    _prose_job("novels", "novels", partial(books, name="novels"), 20),
    _prose_job("openstax", "openstax", _whole("openstax", "openstax_ccby"), 1),
    _prose_job("scisummnet", "scisummnet", _whole("scisummnet", "scisummnet"), 2),
    _prose_job("tinystories", "tinystories", _whole("tinystories", "tinystories"), 1),
    _prose_job("storybooks", "storybooks", _whole("storybooks", "storybooks_asp_pb"), 1),
    _prose_job("sgd", "sgd", _whole("sgd", "sgd_dialogues", "all"), 1, 0.25),
    _prose_job("factbook", "factbook", _whole("factbook", "world_factbook"), 3),
    _prose_job("contracts", "cuad", _whole("cuad", "cuad_v1", "train", "CUAD_v1"), 4),
    _only_train("qmsum", "qmsum", 8),
    _only_train("fairytaleqa", "fairytaleqa", 2),
    _only_train("squality", "squality", 4),
]
GUARDED = ("children", "classics", "novels", "tinystories", "storybooks")
HAYSTACKS = ("prose-children", "prose-novels", "prose-storybooks", "prose-fairytaleqa", "prose-tinystories")

# File -> kinds and train records.
NEEDLES: dict[str, tuple[tuple[str, ...], int]] = {
    "needles-facts": (("fact", "facts", "text_fact", "text_facts"), 10_000),
    "needles-keys": (("number", "word", "multi_key", "multi_value"), 5_000),
}
_LENGTHS_CHARS = (500, 700, 1000, 1500, 2000, 3000, 4000, 6000)


def hidden_facts(name: str, part: Part, haystacks: list[str]) -> Iterator[Record]:
    """Yield facts hidden in prose."""
    kinds, count = NEEDLES[name]
    count = count if part == "train" else count // 20
    seed = SEED + sum(map(ord, f"{name}/{part}"))
    return generate_needles(haystacks, count, _LENGTHS_CHARS, kinds, seed)
