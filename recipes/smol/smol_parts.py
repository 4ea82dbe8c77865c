"""Which part a document belongs to: train, validation or test. Fixed by hashes of names, never by chance."""

import hashlib
import re
from collections.abc import Iterable
from typing import Literal, get_args

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = get_args(Part)
VALIDATION_FRACTION = 0.05

# Data set -> share of its documents that is test, where its authors publish no part to test on.
TEST_FRACTIONS = {"covid_qa": 1 / 3, "cuad": 0.1}

# The company whose contract contract_questions.jsonl asks about.
ALWAYS_TEST = {"cuad": ("DRKOOPCOMINC",)}

# Said in heldout.json: what is test and why.
RULES = {
    "squad": "test: every article of the v1.1 dev file, as XQuAD has paragraphs of each",
    "fairytaleqa": "test: the authors' val split",
    "qmsum": "test: the authors' val split",
    "squality": "test: the authors' dev split",
    "nq_qed": "test: the authors' dev split; training pages with a title of it are dropped",
    "covid_qa": "test: a third of the papers, by hash",
    "cuad": "test: a tenth of the companies, by hash of the name up to the first _ or dash, and DRKOOPCOMINC",
}


def digest(name: str) -> str:
    """Return the hash of a document's name, 16 hexadecimal digits."""
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def grouped(dataset: str, document: str) -> str:
    """Return what a document is parted by: its name, of a contract the company, whose contracts are alike."""
    return re.split(r"_| - ", document)[0].strip() if dataset == "cuad" else document


def part_of(dataset: str, document: str) -> Part:
    """Return the part of a document by the hash of its name.

    The lowest hashes of a set are its test part, if it has one, the next 5% are validation.

    Args:
        dataset: The data set.
        document: A title or an id; for documents without either, their text.
    """
    if grouped(dataset, document) in ALWAYS_TEST.get(dataset, ()):
        return "test"
    place = int(digest(grouped(dataset, document)), 16) / 2**64
    test = TEST_FRACTIONS.get(dataset, 0.0)
    if place < test:
        return "test"
    return "validation" if place < test + VALIDATION_FRACTION else "train"


def held_out_list(names: dict[str, dict[Part, set[str]]]) -> dict[str, object]:
    """Return the content of heldout.json.

    Args:
        names: Data set -> part -> the names of its documents.
    """
    return {
        "how": (
            "A document is in test or validation by the first 16 hexadecimal digits of the SHA-256 of its "
            "name, read as a fraction: below the test fraction, and in the 0.05 above it. Listed are these "
            "digits and the first 48 characters of the name."
        ),
        "sets": {
            dataset: {
                "rule": RULES.get(dataset, "no test part; validation: a twentieth of the documents, by hash"),
                **{part: _listed(dataset, parts.get(part, ())) for part in PARTS if part != "train"},
            }
            for dataset, parts in sorted(names.items())
        },
    }


def _listed(dataset: str, documents: Iterable[str]) -> list[str]:
    return [f"{digest(grouped(dataset, document))} {document[:48]}" for document in sorted(documents)]
