"""Converters of data sets that only this recipe reads; each yields documents' names with their records."""

import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from smol_raw import Raw
from smol_text import ask, detokenize, find_detokenized, is_short, one_line, window

from e2llm.data.prepare import make_converter
from e2llm.records import Record

Named = tuple[str, Record]
_MAX_DOLLY_CHARS = 6000
MAX_QUOTED_WORDS = 30
QUOTE = "Which sentence answers this: "
_CLAUSE_LEADS = re.compile(r"^\s*[-*•]\s*")


def span_of(context: str, answer: str) -> tuple[tuple[int, int], ...]:
    """Return the span of the first place where a context has an answer as whole words, if any."""
    match = re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", context) if answer else None
    return (match.span(),) if match else ()


def nq_qed(raw: Raw, split: str) -> Iterator[Named]:
    """Yield Natural Questions with their passages; drop training pages with a title of the dev part."""
    rows = [row for _, row in raw.rows("nq_qed", "split", "id", "title", "question", "passage", "answers")]
    tested = {row["title"] for row in rows if row["split"] == "dev"}
    for row in rows:
        if row["split"] != split or (split == "train" and row["title"] in tested):
            continue
        context = one_line(detokenize(row["passage"], joins_hyphens=True))
        answers = [one_line(detokenize(text, joins_hyphens=True)) for text in row["answers"]]
        # Several answers name several things, all asked for.
        found = [answer for answer in answers if span_of(context, answer)]
        if not found or len(found) < len(answers):
            continue
        spans = tuple(span for answer in found for span in span_of(context, answer))
        record = Record(
            context, ask(row["question"]), ", ".join(dict.fromkeys(found)), evidence=spans, id=str(row["id"])
        )
        yield row["title"], record


def boolq(raw: Raw) -> Iterator[Named]:
    """Yield yes-or-no questions on a passage that begins with its page's title."""
    for number, row in raw.rows("boolq_train2k_dev", "question", "passage", "answer"):
        context = one_line(detokenize(row["passage"]))
        answer = {"True": "yes", "False": "no"}[str(row["answer"])]
        yield context.partition(" -- ")[0], Record(context, ask(row["question"]), answer, id=str(number))


def squad_sentences(
    raw: Raw, known: dict[str, str], is_held: Callable[[str], bool], seed: int = 0, others: int = 5
) -> Iterator[Named]:
    """Yield questions with the sentence that answers them.

    Where the short answer is known, the sentence alone is the context. Otherwise the sentence is hidden among
    `others` and is the answer, as the publisher gives no other.

    Args:
        raw: The raw data sets.
        known: Question -> short answer.
        is_held: Whether a sentence is of a text that is held out; it is left out.
        seed: Of the draws of other sentences.
        others: Number of sentences around the right one.
    """
    rows = [row for _, row in raw.rows("squad_train_question_sentence", "question", "sentence")]
    rows = [row for row in rows if not is_held(one_line(row["sentence"]))]
    sentences = sorted({one_line(row["sentence"]) for row in rows})
    for number, row in enumerate(rows, start=1):
        sentence, prompt = one_line(row["sentence"]), ask(row["question"])
        spans = span_of(sentence, known.get(prompt, ""))
        if spans:
            yield sentence, Record(sentence, prompt, known[prompt], evidence=spans, id=str(number))
            continue
        rng = random.Random(f"{seed}/{number}")
        drawn = [text for text in rng.sample(sentences, others) if text != sentence]
        drawn.insert(rng.randint(0, len(drawn)), sentence)
        context = " ".join(drawn)
        start = context.index(sentence)
        record = Record(
            context,
            f"{QUOTE}{prompt}",
            sentence,
            evidence=((start, start + len(sentence)),),
            id=str(number),
        )
        if len(sentence.split()) <= MAX_QUOTED_WORDS:
            yield sentence, record


def qamr(raw: Raw) -> Iterator[Named]:
    """Yield QAMR's questions on single sentences with normal spacing."""
    for record in make_converter("qamr", {}).convert(raw.set_folder("qamr"), "all"):
        context, answer = detokenize(record.context), detokenize(record.answer)
        spans = span_of(context, answer)
        if spans:
            document = record.id.rpartition(":")[0]
            prompt = ask(detokenize(record.prompt))
            yield document, Record(context, prompt, answer, evidence=spans, id=record.id)


def quoref(raw: Raw) -> Iterator[Named]:
    """Yield questions whose answer takes coreference; several answers are joined."""
    seen = set()
    for number, row in raw.rows("quoref_sample", "input", "output"):
        passage, _, question = row["input"].removeprefix("Passage: ").rpartition("\nQuestion: ")
        context = "\n".join(one_line(line) for line in passage.strip().split("\n") if line.strip())
        answers = [one_line(text) for text in row["output"]]
        # The publisher ended every answer with a full stop.
        answers = [
            text if text in context and not span_of(context, text[:-1]) else text[:-1] for text in answers
        ]
        spans = tuple(span for text in answers for span in span_of(context, text))
        if (context, question) in seen or len(spans) < len(answers):
            continue
        seen.add((context, question))
        yield context, Record(context, ask(question), ", ".join(answers), evidence=spans, id=str(number))


def policyqa(raw: Raw) -> Iterator[Named]:
    """Yield questions on paragraphs of privacy policies, each with its shortest answer."""
    for number, row in raw.rows("policyqa_dev_test", "policy", "context", "qas"):
        context = row["context"]
        for place, question in enumerate(row["qas"]):
            texts = sorted(
                {answer["text"].strip() for answer in question["answers"]}, key=lambda text: (len(text), text)
            )
            texts = [text for text in texts if text and text in context]
            if not texts or not is_short(texts[0]):
                continue
            start = context.index(texts[0])
            record = Record(
                context,
                ask(question["question"]),
                texts[0],
                references=tuple(texts[1:]),
                evidence=((start, start + len(texts[0])),),
                id=f"{number}:{place}",
            )
            yield row["policy"], record


def pubmedqa(raw: Raw) -> Iterator[Named]:
    """Yield questions on abstracts without their conclusion, answered with yes, no or maybe."""
    for _, row in raw.rows("pubmedqa_labelled", "pmid", "QUESTION", "CONTEXTS", "final_decision"):
        context = "\n\n".join(one_line(text) for text in row["CONTEXTS"])
        yield row["pmid"], Record(context, ask(row["QUESTION"]), row["final_decision"], id=row["pmid"])


def hotpotqa(raw: Raw, *, has_distractors: bool) -> Iterator[Named]:
    """Yield questions on two of ten paragraphs; the supporting sentences are the evidence.

    Args:
        raw: The raw data sets.
        has_distractors: Whether the context is all ten paragraphs, not only the two that support the answer.
    """
    for _, row in raw.rows("hotpotqa_distractor_1100", "id", "question", "answer", "context"):
        facts = defaultdict(set)
        for title, place in zip(*(row["supporting_facts"][key] for key in ("title", "sent_id")), strict=True):
            facts[title].add(place)
        context, spans = "", []
        for title, sentences in zip(row["context"]["title"], row["context"]["sentences"], strict=True):
            if not has_distractors and title not in facts:
                continue
            context += f"\n\n{title}\n" if context else f"{title}\n"
            for place, sentence in enumerate(sentences):
                start = len(context) + len(sentence) - len(sentence.lstrip())
                context += sentence if sentence[:1].isspace() or place == 0 else f" {sentence}"
                start = start if sentence[:1].isspace() or place == 0 else start + 1
                if place in facts.get(title, ()) and start < len(context):
                    spans.append((start, len(context)))
        answer = one_line(row["answer"])
        if spans and is_short(answer):
            yield (
                row["id"],
                Record(context, ask(row["question"]), answer, evidence=tuple(spans), id=row["id"]),
            )


def timeqa(raw: Raw, *, whole: bool, seed: int = 0) -> Iterator[Named]:
    """Yield questions that turn on a time, on a whole page or a stretch of it around the answer.

    Questions without an answer are left out.

    Args:
        raw: The raw data sets.
        whole: Whether the context is the whole page.
        seed: Of the stretches.
    """
    rows: list[tuple[str, dict[str, Any]]] = []
    for level in ("easy", "hard"):
        for number, row in raw.rows(f"timeqa_human_train_{level}", "idx", "question", "context", "targets"):
            rows.append((f"{level}:{number}:{row['idx'].removeprefix('/wiki/')}", row))
    rows.sort(key=lambda pair: pair[1]["context"])  # the questions of a page follow each other
    known: dict[str, str] = {}
    for name, row in rows:
        page = row["context"]
        text = known.setdefault(page, one_line(detokenize(page)))
        found = []
        for target, start in zip(row["targets"], row["from"], strict=True):
            answer = one_line(detokenize(target))
            span = find_detokenized(page, text, answer, start)
            if span is not None:
                found.append((answer, span))
        if not found:
            continue
        found.sort(key=lambda pair: len(pair[0]))
        answer, span = found[0]
        context, spans = text, (span, *(other for _, other in found[1:]))
        if not whole:
            cut = window(text, (span,), random.Random(f"{seed}/{name}"))
            context, spans = cut.text, cut.spans
        others = tuple(dict.fromkeys(other for other, _ in found[1:] if other != answer))
        record = Record(context, ask(row["question"]), answer, references=others, evidence=spans, id=name)
        yield row["idx"].removeprefix("/wiki/").partition("#")[0], record


def dolly(raw: Raw, *, has_context: bool) -> Iterator[Named]:
    """Yield instructions, with their text or without any.

    An instruction without a text is its own context, as every record needs one.
    """
    for number, row in raw.rows("dolly_15k", "instruction", "context", "response", "category"):
        prompt, context = row["instruction"].strip(), row["context"].strip()
        answer = _CLAUSE_LEADS.sub("", row["response"].strip())
        if bool(context) != has_context or not prompt or not answer or not is_short(answer):
            continue
        context = re.sub(r"\[\d+\]", "", context) or prompt
        if len(context) > _MAX_DOLLY_CHARS:
            continue
        evidence = span_of(context, answer) if has_context else ()
        yield context, Record(context, prompt, answer, evidence=evidence, id=str(number))
