"""CUAD v1 (Hendrycks et al. 2021, arXiv 2103.06268): 41 questions about each of 510 contracts."""

import ast
import re
from collections.abc import Iterator
from datetime import date

from e2llm.data.data_set import Conversion, Records, data_set

NOT_STATED = "Not stated."
_TABLE, _TEXTS = "master_clauses.csv", "full_contract_txt"

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
CATEGORIES = {**TERMS, **CLAUSES}

_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_BLANK = re.compile(r"[\[\]●•*_]")


@data_set(
    "cuad",
    description="questions on whole contracts: parties, dates, governing law, and whether a clause is there",
    licence="CC BY 4.0",
    home="https://www.atticusprojectai.org/cuad",
    layout=f"the folder CUAD_v1 with {_TABLE} and {_TEXTS}/*.txt",
    published_counts={"train": 510 * len(CATEGORIES)},
)
def cuad(run: Conversion) -> Records:
    """Yield one record per contract and category; the context is the whole contract.

    8 categories ask for a name, a date or a duration, which may be `NOT_STATED`; 33 for yes or no. The text
    keeps its lines; runs of spaces and of empty lines are reduced to one.
    """
    texts = {_file_key(path.stem): path for path in run.files(f"{_TEXTS}/*.txt")}
    for row in run.csv(run.source / _TABLE, "Filename", *CATEGORIES):
        title = re.sub(r"\.pdf'?$", "", row["Filename"].strip(), flags=re.IGNORECASE).strip()
        if (path := texts.get(_file_key(title))) is None:
            run.skip("contract without its text", len(CATEGORIES))
            continue
        context = _tidy(run.text(path))
        for category in CATEGORIES:
            clauses = list(dict.fromkeys(_clauses(run, title, row[category])))
            derived = (row.get(f"{category}-Answer") or row.get(f"{category}- Answer", "")).strip()
            if category in CLAUSES:
                answer = "Yes" if clauses else "No"
            else:
                answer = _term(category, clauses, derived) if clauses else NOT_STATED
            if answer:
                spans = dict.fromkeys(span for clause in clauses for span in _spans(context, clause))
                evidence, name = tuple(spans), f"{title}:{category}"
                yield run.record(context, CATEGORIES[category], answer, evidence=evidence, id=name)
            else:
                run.skip("term is left blank or has no short answer")


def _clauses(run: Conversion, title: str, cell: str) -> list[str]:
    """Return the texts of a cell of the table, which is written as a Python list."""
    try:
        texts = ast.literal_eval(cell) if cell.strip() else []
    except (SyntaxError, ValueError) as error:
        run.place = str(run.source / _TABLE)
        raise run.error(f"{title}: not a list of texts: {cell[:60]!r}") from error
    return [text for text in texts if text.strip()]


def _term(category: str, clauses: list[str], derived: str) -> str:
    """Return the short answer to the question for a term; empty if a blank was never filled in."""
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
    """Return the letters and digits of a file's name: table and texts differ in the other characters."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _tidy(text: str) -> str:
    """Return the text with one space for each run of spaces, and one empty line for each run of them."""
    lines = "\n".join(" ".join(line.split()) for line in text.splitlines())
    return re.sub(r"\n{3,}", "\n\n", lines).strip()


def _spans(context: str, clause: str) -> Iterator[tuple[int, int]]:
    """Yield where the parts of a clause first occur in a contract, whatever their white space."""
    for part in clause.split("<omitted>"):
        pattern = r"\s+".join(re.escape(word) for word in part.split())
        if pattern and (match := re.search(pattern, context)):
            yield match.span()
