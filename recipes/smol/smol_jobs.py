"""What each file of records is made of: question sets, long documents, prose and hidden facts."""

import json
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import smol_sets as sets
from smol_parts import Part, digest, part_of
from smol_raw import Raw
from smol_sets import Named
from smol_text import is_short, one_line, unwrap, window

from e2llm.data.prepare import make_converter
from e2llm.data.sets.cuad import NOT_STATED
from e2llm.records import Record

Placed = tuple[Part, str, Record]
SEED = 20
_MAX_LONG_CHARS = 120_000
_ABSENT_SHARE, _NOT_STATED_SHARE = 0.5, 0.1
_UNTITLED = "untitled"


@dataclass(frozen=True)
class Job:
    """One file of records per part.

    Attributes:
        name: The file's name without its ending.
        dataset: The data set whose documents are parted together.
        make: Yields parts, documents' names and records.
        per_document: Most questions on one document, spread evenly over them.
        share: Share of the documents to keep (0..1), by hash.
        short_only: Whether answers of more than 60 words are left out.
    """

    name: str
    dataset: str
    make: Callable[[Raw], Iterable[Placed]]
    per_document: int | None = None
    share: float = 1.0
    short_only: bool = True

    def records(self, raw: Raw) -> Iterator[Placed]:
        """Yield what the file holds, documents in the order of their data set."""
        documents: dict[tuple[Part, str], list[Record]] = {}
        for part, document, record in self.make(raw):
            if self.short_only and not is_short(record.answer):
                continue
            if part != "test" and int(digest(f"{document}/keep"), 16) / 2**64 >= self.share:
                continue
            documents.setdefault((part, document), []).append(replace(record, source=self.dataset))
        for (part, document), records in documents.items():
            yield from ((part, document, record) for record in thinned(records, self.per_document))


def thinned(records: list[Record], most: int | None) -> list[Record]:
    """Return at most that many records, spread evenly over them."""
    if most is None or len(records) <= most:
        return records
    return [records[place * len(records) // most] for place in range(most)]


def by_hash(dataset: str, named: Iterable[Named]) -> Iterator[Placed]:
    """Yield records with the part that the hash of their document gives."""
    for document, record in named:
        yield part_of(dataset, document), document, record


def with_test(dataset: str, known: Iterable[Named], tested: Iterable[Named]) -> Iterator[Placed]:
    """Yield `known` records as train and validation, by hash, and `tested` ones as test."""
    yield from by_hash(dataset, known)
    yield from (("test", document, record) for document, record in tested)


def converted(
    raw: Raw, dataset: str, archive: str, split: str = "train", folder: str | None = None, **options: str
) -> Iterator[Named]:
    """Yield what a converter of the library makes, each record with its document's name."""
    source = raw.set_folder(archive, folder)
    key = f"{dataset}/{split}/{options}"
    for record in raw.once(key, lambda: make_converter(dataset, options).convert(source, split)):
        is_numbered = bool(record.prompt) and ":" in record.id  # the number of a question
        document = record.id.rpartition(":")[0] if is_numbered else record.id
        yield document, replace(record, prompt=sets.ask(record.prompt) if record.prompt else "")


# --- SQuAD ------------------------------------------------------------------------------------------------


def squad(raw: Raw, context: str) -> Iterator[Placed]:
    """Yield the train questions by article, and those of the dev file, which are all test."""
    file = raw.scratch / "squad_train_v1.1.jsonl"
    if not file.is_file():
        lines = []
        for number, row in raw.rows("squad_v1.1_train_part", "title", "context", "question", "answers"):
            title = (row["title"] or _UNTITLED).replace("_", " ")
            lines.append(json.dumps({**row, "id": str(number), "title": title}) + "\n")
        file.write_text("".join(lines), encoding="utf-8")
    converter = make_converter("squad", {"context": context})
    for record in converter.convert(file, "all"):
        title = record.id.partition(":")[0]
        if title != _UNTITLED:
            yield part_of("squad", title), title, shortest(record)
        elif context == "paragraph":
            yield "train", f"{_UNTITLED}:{digest(record.context)}", shortest(record)
    dev = raw.set_folder("squad_dev") / "squad_v1.1_dev.jsonl"
    for record in make_converter("squad", {"context": context}).convert(dev, "all"):
        yield "test", record.id.partition(":")[0], shortest(record)


def shortest(record: Record) -> Record:
    """Return the record with its shortest accepted answer first, and the others as references."""
    texts = [one_line(text) for text in (record.answer, *record.references)]
    answer = min(texts, key=len)
    evidence = record.evidence
    if evidence and answer != record.answer:
        start, end = evidence[0]
        near = record.context.find(answer, max(0, start - 50), end + 50)
        evidence = ((near, near + len(answer)),) if near >= 0 else evidence
    others = tuple(dict.fromkeys(text for text in texts if text != answer))
    prompt = sets.ask(record.prompt)
    return replace(record, prompt=prompt, answer=answer, references=others, evidence=evidence)


def squad_sentences(raw: Raw, *, quotes: bool) -> Iterator[Placed]:
    """Yield questions on sentences, without those of articles that are held out.

    Args:
        raw: The raw data sets.
        quotes: Whether the answer is the sentence itself, found among others, and not a part of it.
    """
    known, held = {}, []
    for part, _, record in squad(raw, "paragraph"):
        if part == "train":
            known[record.prompt] = record.answer
        else:
            held.append(record.context)
    held_text = one_line("\n".join(dict.fromkeys(held)))
    named = sets.squad_sentences(raw, known, lambda sentence: sentence in held_text, SEED)
    for document, record in named:
        if record.prompt.startswith(sets.QUOTE) == quotes:
            yield part_of("squad_sentence", document), document, record


# --- passages of long documents -----------------------------------------------------------------------------


def windows(named: Iterable[Named], shortest_chars: int = 1500, longest_chars: int = 4000) -> Iterator[Named]:
    """Yield records whose context is a stretch around the evidence; drop those without evidence."""
    for document, record in named:
        if record.evidence:
            rng = random.Random(f"{SEED}/{document}/{record.id}")
            cut = window(record.context, record.evidence, rng, shortest_chars, longest_chars)
            yield document, replace(record, context=cut.text, evidence=cut.spans)


def gold_sections(named: Iterable[Named]) -> Iterator[Named]:
    """Yield FairytaleQA records whose context is the sections that hold the answer."""
    for document, record in named:
        if not record.evidence:
            continue
        context = "\n\n".join(record.context[start:end] for start, end in sorted(set(record.evidence)))
        spans = sets.span_of(context, record.answer)
        yield document, replace(record, context=context, evidence=spans)


def contracts(raw: Raw) -> Iterator[Named]:
    """Yield CUAD's records with lower-case yes and no, and only terms that are literally in the text."""
    folder = raw.set_folder("cuad_v1", "CUAD_v1")
    for record in raw.once("cuad", lambda: make_converter("cuad", {}).convert(folder)):
        document, _, category = record.id.rpartition(":")
        answer = record.answer
        if answer in ("Yes", "No", NOT_STATED):
            answer = answer.lower().rstrip(".")
        elif category not in ("Renewal Term", "Notice Period To Terminate Renewal") and answer != "perpetual":
            lowered = record.context.lower()
            if any(name.lower() not in lowered for name in answer.split("; ")):
                continue
        yield document, replace(record, answer=answer)


def contract_windows(named: Iterable[Named]) -> Iterator[Named]:
    """Yield stretches of contracts around a clause, and some anywhere for what the contract does not say."""
    absent = {"no": _ABSENT_SHARE * 0.4, "not stated": _NOT_STATED_SHARE}
    for document, record in named:
        rng = random.Random(f"{SEED}/{document}/{record.id}")
        if record.evidence:
            cut = window(record.context, record.evidence, rng)
            lowered = cut.text.lower()
            is_name = record.answer not in ("yes", "perpetual") and "; " in record.answer
            if is_name and any(name.lower() not in lowered for name in record.answer.split("; ")):
                continue
        elif rng.random() < absent.get(record.answer, 0.0):
            cut = window(record.context, (), rng)
        else:
            continue
        if cut.text.strip():
            yield document, replace(record, context=cut.text, evidence=cut.spans)


def not_longer(named: Iterable[Named], longest: int = _MAX_LONG_CHARS) -> Iterator[Named]:
    """Yield the records on documents of at most `longest` characters."""
    return ((document, record) for document, record in named if len(record.context) <= longest)


def long_contracts(named: Iterable[Named]) -> Iterator[Named]:
    """Yield records on whole contracts: terms and clauses that exist, and a fifth of the missing ones."""
    for document, record in not_longer(named):
        is_absent = record.answer in ("no", "not stated")
        if not is_absent or int(digest(record.id), 16) % 5 == 0:
            yield document, record


def fairytales(raw: Raw, change: Callable[[Iterable[Named]], Iterable[Named]] = iter) -> Iterator[Placed]:
    """Yield FairytaleQA; the authors' val split is test."""
    known, tested = (converted(raw, "fairytaleqa", "fairytaleqa", split) for split in ("train", "validation"))
    yield from with_test("fairytaleqa", change(_unwrapped(known)), change(_unwrapped(tested)))


def _unwrapped(named: Iterable[Named]) -> Iterator[Named]:
    return ((document, replace(record, context=unwrap(record.context))) for document, record in named)


def meetings(raw: Raw, *, short: bool) -> Iterator[Placed]:
    """Yield QMSum's queries whose answer is short, or the others; the authors' val split is test."""
    known, tested = (converted(raw, "qmsum", "qmsum", split) for split in ("train", "validation"))
    for placed in with_test("qmsum", known, tested):
        if is_short(placed[2].answer) == short:
            yield placed


def stories(raw: Raw) -> Iterator[Placed]:
    """Yield SQuALITY, the shortest summary of each question first; the authors' dev split is test."""
    known, tested = (converted(raw, "squality", "squality", split) for split in ("train", "validation"))
    yield from with_test("squality", known, tested)


def terms(named: Iterable[Named]) -> Iterator[Named]:
    """Yield the glossary questions of OpenStax whose meaning is in the module's text."""
    return ((document, record) for document, record in named if ":term-" in record.id and record.evidence)


def lookups(raw: Raw) -> Iterator[Named]:
    """Yield questions on fields of countries."""
    return converted(raw, "factbook", "world_factbook")


def _hashed(dataset: str, make: Callable[[Raw], Iterable[Named]]) -> Callable[[Raw], Iterator[Placed]]:
    return lambda raw: by_hash(dataset, make(raw))


def _passages() -> list[Job]:
    def covid(raw: Raw) -> Iterator[Named]:
        return windows(converted(raw, "covid_qa", "covid_qa"), 2000, 4000)

    def nq(raw: Raw) -> Iterator[Placed]:
        return with_test("nq_qed", sets.nq_qed(raw, "train"), sets.nq_qed(raw, "dev"))

    def glossary(raw: Raw) -> Iterator[Named]:
        return windows(terms(converted(raw, "openstax", "openstax_ccby")))

    def health(raw: Raw) -> Iterator[Named]:
        return windows(filter(_is_short, converted(raw, "medquad", "medquad")))

    def slots(raw: Raw) -> Iterator[Named]:
        return converted(raw, "sgd", "sgd_dialogues", "all")

    makers: list[tuple[str, Callable[[Raw], Iterable[Named]], int | None, float]] = [
        ("qamr", sets.qamr, None, 1.0),
        ("quoref", sets.quoref, None, 1.0),
        ("policyqa", sets.policyqa, None, 1.0),
        ("boolq", sets.boolq, None, 1.0),
        ("pubmedqa", sets.pubmedqa, None, 1.0),
        ("hotpotqa", partial(sets.hotpotqa, has_distractors=False), None, 1.0),
        ("covid_qa", covid, None, 1.0),
        ("timeqa", partial(sets.timeqa, whole=False, seed=SEED), None, 1.0),
        ("dolly", partial(sets.dolly, has_context=True), None, 1.0),
        ("cuad", lambda raw: contract_windows(contracts(raw)), 12, 1.0),
        ("openstax", glossary, 3, 1.0),
        ("medquad", health, 1, 0.5),
        ("sgd", slots, 2, 0.25),
        ("factbook", lambda raw: windows(lookups(raw), 800, 3000), 10, 1.0),
    ]
    return [
        Job("passage-squad", "squad", partial(squad, context="paragraph")),
        Job("passage-squad-sentence", "squad_sentence", partial(squad_sentences, quotes=False)),
        Job("passage-squad-quote", "squad_sentence", partial(squad_sentences, quotes=True)),
        Job("passage-nq", "nq_qed", nq),
        Job("passage-fairytaleqa", "fairytaleqa", partial(fairytales, change=gold_sections)),
        *(
            Job(f"passage-{name}", name, _hashed(name, make), per_document, share)
            for name, make, per_document, share in makers
        ),
    ]


def _is_short(named: Named) -> bool:
    return is_short(named[1].answer)


def _long_documents() -> list[Job]:
    def covid(raw: Raw) -> Iterator[Named]:
        return not_longer(converted(raw, "covid_qa", "covid_qa"))

    makers: list[tuple[str, Callable[[Raw], Iterable[Named]], int]] = [
        ("covid_qa", covid, 8),
        ("timeqa", partial(sets.timeqa, whole=True), 3),
        ("cuad", lambda raw: long_contracts(contracts(raw)), 3),
        ("hotpotqa", partial(sets.hotpotqa, has_distractors=True), 3),
        ("factbook", lookups, 4),
    ]
    return [
        Job("long-squad", "squad", partial(squad, context="article"), 20),
        Job("long-fairytaleqa", "fairytaleqa", fairytales, 10),
        Job("long-qmsum", "qmsum", partial(meetings, short=True), 4),
        *(Job(f"long-{name}", name, _hashed(name, make), most) for name, make, most in makers),
        Job("summary-qmsum", "qmsum", partial(meetings, short=False), 3, short_only=False),
        Job("summary-squality", "squality", stories, 5, short_only=False),
    ]


JOBS: list[Job] = [
    *_passages(),
    *_long_documents(),
    Job("instructions", "dolly", _hashed("dolly", partial(sets.dolly, has_context=False))),
]
