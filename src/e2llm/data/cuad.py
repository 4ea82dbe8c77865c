"""CUAD v1 (Hendrycks et al. 2021, arXiv 2103.06268): 41 questions about each of 510 contracts."""

import ast
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar, Literal

from e2llm.data.converter import Converter
from e2llm.data.source_files import check_keys, read_csv_rows, read_json, read_text
from e2llm.errors import E2LLMError
from e2llm.records import Record

NOT_STATED = "Not stated."
_TABLE, _TEXTS, _JSON = "master_clauses.csv", "full_contract_txt", "CUADv1.json"
_ANSWERS = ("short", "clause")

# Questions whose answer is a name, a date or a duration.
TERMS: dict[str, str] = {
    "Document Name": "What is the name of the contract?",
    "Parties": "Who are the parties to the contract?",
    "Agreement Date": "What is the date of the contract?",
    "Effective Date": "When does the contract take effect?",
    "Expiration Date": "When does the contract expire?",
    "Renewal Term": "For how long is the contract renewed after its initial term?",
    "Notice Period To Terminate Renewal": "How much notice must be given to prevent a renewal?",
    "Governing Law": "Which state's or country's law governs the contract?",
}

# Questions that are answered with yes or no.
CLAUSES: dict[str, str] = {
    "Most Favored Nation": "Is one party entitled to better terms if a third party gets them?",
    "Competitive Restriction Exception": "Are there exceptions to a restriction on competition?",
    "Non-Compete": "Does the contract restrict a party from competing?",
    "Exclusivity": "Does the contract grant exclusivity?",
    "No-Solicit Of Customers": "Is a party forbidden to solicit the other party's customers?",
    "No-Solicit Of Employees": "Is a party forbidden to solicit or hire the other party's employees?",
    "Non-Disparagement": "Is a party forbidden to disparage the other?",
    "Termination For Convenience": "Can a party terminate the contract without cause?",
    "Rofr/Rofo/Rofn": "Does a party have a right of first refusal, first offer or first negotiation?",
    "Change Of Control": "Does a change of control allow termination or require consent or notice?",
    "Anti-Assignment": "Is consent or notice required to assign the contract to a third party?",
    "Revenue/Profit Sharing": "Must a party share revenue or profit with the other?",
    "Price Restrictions": "Does the contract restrict changes of prices?",
    "Minimum Commitment": "Is there a minimum amount that a party must buy?",
    "Volume Restriction": "Does use above a certain volume raise the fee or require consent?",
    "Ip Ownership Assignment": "Does one party own the intellectual property that the other creates?",
    "Joint Ip Ownership": "Do the parties own any intellectual property jointly?",
    "License Grant": "Does the contract grant a license?",
    "Non-Transferable License": "Is the license non-transferable?",
    "Affiliate License-Licensor": "Does a license cover property of the licensor's affiliates?",
    "Affiliate License-Licensee": "Does a license extend to the licensee's affiliates?",
    "Unlimited/All-You-Can-Eat-License": "Does the contract grant a license for unlimited use?",
    "Irrevocable Or Perpetual License": "Does the contract grant an irrevocable or perpetual license?",
    "Source Code Escrow": "Must a party deposit source code in escrow?",
    "Post-Termination Services": "Does a party have obligations after the contract ends?",
    "Audit Rights": "Does a party have the right to audit the other?",
    "Uncapped Liability": "Is a party's liability uncapped in some case?",
    "Cap On Liability": "Does the contract cap a party's liability?",
    "Liquidated Damages": "Does the contract provide for liquidated damages or a termination fee?",
    "Warranty Duration": "Does the contract state how long a warranty lasts?",
    "Insurance": "Must a party maintain insurance?",
    "Covenant Not To Sue": "Does a party promise not to sue or not to contest the other party's rights?",
    "Third Party Beneficiary": "Does a third party benefit from the contract and may enforce it?",
}
QUESTIONS = {**TERMS, **CLAUSES}

_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_BLANK = re.compile(r"[\[\]●•*_]")


@dataclass
class _Entry:
    """What a contract says about one category: its clauses, with offsets if known, and the short answer."""

    clauses: list[tuple[str, int | None]]
    derived: str = ""


@dataclass
class _Contract:
    title: str
    text: str
    entries: dict[str, _Entry] = field(default_factory=dict)


@dataclass
class CuadConverter(Converter):
    """One record per contract and category; the context is the whole contract.

    The text keeps its lines; runs of spaces and of empty lines are reduced to one.

    Attributes:
        answers: `short` asks for a name, a date or a duration (8 categories) or for yes or no (33); a missing
            term is answered with `NOT_STATED`. `clause` asks for the text of the clause and leaves out
            categories that the contract does not have.
    """

    name = "cuad"
    description = "questions on whole contracts: parties, dates, governing law, and whether a clause is there"
    licence = "CC BY 4.0"
    home = "https://www.atticusprojectai.org/cuad"
    layout = f"the folder CUAD_v1 with {_TABLE} and {_TEXTS}/*.txt, or {_JSON}"
    published_counts: ClassVar[Mapping[str, int]] = {"train": 510 * len(QUESTIONS)}

    answers: Literal["short", "clause"] = "short"

    def __post_init__(self) -> None:
        """Check the options; raises `E2LLMError`."""
        if self.answers not in _ANSWERS:
            raise E2LLMError(f"answers={self.answers!r} is unknown; choose from: {', '.join(_ANSWERS)}")

    def _records(self, source: Path, split: str) -> Iterator[Record]:
        document = source if source.is_file() else source / _JSON
        if source.is_file() or (document.is_file() and not (source / _TABLE).is_file()):
            contracts = self._read_json(document)
        elif (source / _TABLE).is_file():
            contracts = self._read_table(source)
        else:
            raise self._missing_error(source / _TABLE)
        for contract in contracts:
            yield from self._contract(contract)

    def _read_table(self, source: Path) -> Iterator[_Contract]:
        table = source / _TABLE
        texts = {_file_key(path.stem): path for path in sorted((source / _TEXTS).glob("*.txt"))}
        if not texts:
            raise self._missing_error(source / _TEXTS / "*.txt")
        for row in read_csv_rows(table, ("Filename", *QUESTIONS)):
            title = re.sub(r"\.pdf'?$", "", row["Filename"].strip(), flags=re.IGNORECASE).strip()
            path = texts.get(_file_key(title))
            if path is None:
                self.skipped["contract without its text"] += len(QUESTIONS)
                continue
            contract = _Contract(title, read_text(path))
            for category in QUESTIONS:
                clauses = self._clauses(table, title, row[category])
                answer = row.get(f"{category}-Answer") or row.get(f"{category}- Answer", "")
                contract.entries[category] = _Entry([(text, None) for text in clauses], answer.strip())
            yield contract

    def _clauses(self, table: Path, title: str, cell: str) -> list[str]:
        """The texts of a cell of the table, which is written as a Python list."""
        try:
            texts = ast.literal_eval(cell) if cell.strip() else []
        except (SyntaxError, ValueError) as error:
            raise self._layout_error(table, f"{title}: not a list of texts: {cell[:60]!r}") from error
        return [text for text in texts if text.strip()]

    def _read_json(self, path: Path) -> Iterator[_Contract]:
        document = read_json(path)
        check_keys(document, ("data",), str(path))
        for entry in document["data"]:
            check_keys(entry, ("title", "paragraphs"), str(path))
            for paragraph in entry["paragraphs"]:
                check_keys(paragraph, ("context", "qas"), f"{path}: {entry['title']}")
                contract = _Contract(entry["title"], paragraph["context"])
                for row in paragraph["qas"]:
                    check_keys(row, ("id", "answers"), f"{path}: {entry['title']}")
                    category = row["id"].rpartition("__")[2]
                    if category not in QUESTIONS:
                        self.skipped["unknown category"] += 1
                        continue
                    contract.entries[category] = _Entry(_answers(row))
                yield contract

    def _contract(self, contract: _Contract) -> Iterator[Record]:
        context = _tidy(contract.text)
        finder = _Finder(contract.text, context)
        for category, entry in contract.entries.items():
            clauses = list(dict.fromkeys(text for text, _ in entry.clauses))
            found = self._question(category, entry, clauses)
            if found is None:
                continue
            prompt, answer, references = found
            spans = (finder.spans(text, start) for text, start in entry.clauses)
            yield Record(
                context,
                prompt,
                answer,
                references=references,
                evidence=tuple(dict.fromkeys(span for part in spans for span in part)),
                id=f"{contract.title}:{category}",
                source=self.name,
            )

    def _question(
        self, category: str, entry: _Entry, clauses: list[str]
    ) -> tuple[str, str, tuple[str, ...]] | None:
        """Prompt, answer and further answers; None, counted, if there is nothing to ask."""
        if self.answers == "clause":
            if not clauses:
                self.skipped["category is not in the contract"] += 1
                return None
            first, *others = (" ".join(text.split()) for text in clauses)
            return f'What does the contract say about "{category}"?', first, tuple(others)
        if category in CLAUSES:
            return CLAUSES[category], "Yes" if clauses else "No", ()
        if not clauses:
            return TERMS[category], NOT_STATED, ()
        answer = _term(category, clauses, entry.derived)
        if not answer:
            self.skipped["term is left blank or has no short answer"] += 1
            return None
        return TERMS[category], answer, ()


def _answers(row: dict[str, Any]) -> list[tuple[str, int | None]]:
    return [(answer["text"], int(answer["answer_start"])) for answer in row["answers"]]


def _term(category: str, clauses: list[str], derived: str) -> str:
    """The short answer to the question for a term; empty if a blank was never filled in."""
    clauses = [" ".join(text.split()) for text in clauses]
    if category in ("Document Name", "Agreement Date"):
        answer = min(clauses, key=len)
    elif category in ("Effective Date", "Expiration Date"):
        answer = _written_date(clauses, derived)
    elif category == "Parties":
        names = re.sub(r"\([^)]*\)|;\s*$", "", derived) if derived else "; ".join(clauses)
        answer = "; ".join(name.strip(" ,.") for name in names.split(";") if name.strip(" ,."))
    else:
        answer = derived or min(clauses, key=len)
    return "" if _BLANK.search(answer) else answer


def _written_date(clauses: list[str], derived: str) -> str:
    """Return a date as the contract writes it, else in words; or a word like `perpetual`, or the clause."""
    if not derived:
        return min(clauses, key=len)
    numbers = re.fullmatch(r"(\d{1,2})/(\d{1,2})/(\d{2}|\d{4})", derived)
    if numbers is None:
        return "" if re.search(r"\d/", derived) else derived.lower()
    month, day, year = map(int, numbers.groups())
    year += 0 if year > 99 else 1900 if year > 60 else 2000
    try:
        when = date(year, month, day)
    except ValueError:
        return ""
    name = _MONTHS[when.month - 1]
    ordinal = r"(?:\s?(?:st|nd|rd|th))?"
    forms = (
        rf"\b{name}\s+0?{when.day}{ordinal},?\s+{when.year}\b",
        rf"\b0?{when.day}{ordinal}\s+(?:day\s+of\s+)?{name},?\s+{when.year}\b",
        rf"\b0?{when.month}/0?{when.day}/(?:{when.year}|{when.year % 100:02})\b",
    )
    for form in forms:
        for clause in clauses:
            match = re.search(form, clause, re.IGNORECASE)
            if match:
                return match.group()
    return f"{name} {when.day}, {when.year}"


def _file_key(name: str) -> str:
    """The letters and digits of a file's name: its table and its texts differ in the other characters."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _tidy(text: str) -> str:
    """The text with one space for every run of spaces in a line, and one empty line for every run of them."""
    lines = "\n".join(" ".join(line.split()) for line in text.splitlines())
    return re.sub(r"\n{3,}", "\n\n", lines).strip()


class _Finder:
    """Finds clauses in a tidied contract, whatever white space they have."""

    def __init__(self, original: str, tidied: str) -> None:
        self._original = original
        words = list(re.finditer(r"\S+", tidied))
        self._collapsed = " ".join(word.group() for word in words)
        self._begins = [0, *accumulate(len(word.group()) + 1 for word in words)][:-1]
        self._starts = [word.start() for word in words]

    def spans(self, clause: str, start: int | None) -> Iterator[tuple[int, int]]:
        """Yield the spans of a clause's parts; `start`, where known, is an offset in the original text."""
        near = 0 if start is None else len(" ".join(self._original[:start].split()))
        for part in clause.split("<omitted>"):
            wanted = " ".join(part.split())
            begin = self._collapsed.find(wanted, max(0, near - 1)) if wanted else -1
            begin = self._collapsed.find(wanted) if wanted and begin < 0 else begin
            if begin >= 0:
                yield self._offset(begin), self._offset(begin + len(wanted) - 1) + 1

    def _offset(self, position: int) -> int:
        """The offset in the tidied text of a character of the collapsed one."""
        word = bisect_right(self._begins, position) - 1
        return self._starts[word] + position - self._begins[word]
