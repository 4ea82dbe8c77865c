"""Measure how well the decoder can restate each chunk from its soft tokens.

The decoder predicts each token of a chunk from the soft tokens and the true tokens before it
(teacher forcing). The probability of each true token shows what the soft tokens kept. The same measurement
without soft tokens shows what it would have guessed anyway. The paper has no such measure.
"""

import importlib.util
import io
import math
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from e2llm.errors import ContextOverflowError, E2LLMError, MissingExtraError
from e2llm.files import write_atomically
from e2llm.inference.content import Content
from e2llm.inference.decoding.generation import generate_ids
from e2llm.inference.dial import Level
from e2llm.inference.reader import ChunkReader, soft_tokens_of
from e2llm.messages import counted
from e2llm.modeling.decoder_input import DecoderInput
from e2llm.modeling.processor import E2LLMProcessor
from e2llm.modeling.rates import Rate
from e2llm.prompts import IGNORE_INDEX, UNDERSTANDING_PROMPT

# Digits outside identifiers, with the signs that join them: 1,000.5, 9:30, 1908-06-01.
_NUMBER = re.compile(r"(?<![^\W\d])(?<!\d)\d+(?:[.,:/-]\d+)*(?!\w|[.,:/-]\d)")
_WORD = re.compile(r"\w+(?:['’-]\w+)*")
_BETWEEN = " \t\"“”'‘’()[]{}*_—-"  # may come between the end of a sentence and the next word
_SENTENCE_END = ".!?…:\n"
_TITLE_END = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|St|Prof|Rev)\.\s*$")


@dataclass(frozen=True)
class ChunkFidelity:
    """Scores of one chunk.

    Attributes:
        chunk: Its index in the context.
        source: Name of its document.
        start: First character in the document.
        end: Index after the last character.
        num_tokens: Decoder tokens of its text.
        log_probability: Mean over the tokens, in nats, given the soft tokens.
        baseline_log_probability: The same without soft tokens.
        token_accuracy: Share of tokens that are the decoder's first choice, 0 to 1.
        numbers_kept: Share of the numbers whose every token is the decoder's first choice; None if there
            is no number.
        names_kept: The same share for names.
    """

    chunk: int
    source: str
    start: int
    end: int
    num_tokens: int
    log_probability: float
    baseline_log_probability: float
    token_accuracy: float
    numbers_kept: float | None
    names_kept: float | None

    @property
    def score(self) -> float:
        """Geometric mean of the tokens' probabilities, 0 to 1."""
        return math.exp(self.log_probability)

    @property
    def gain(self) -> float:
        """Log-probability that the soft tokens add, in nats per token."""
        return self.log_probability - self.baseline_log_probability


@dataclass(frozen=True)
class FidelityReport:
    """Scores of the chunks of a context.

    Attributes:
        chunks: In the requested order.
        soft_tokens: Soft tokens per chunk; if the chunks differ, the mean, rounded up.
        rate: The rate that all chunks share; None if they differ or the model has no rate.
    """

    chunks: list[ChunkFidelity]
    soft_tokens: int
    rate: Rate | None = None

    @property
    def mean_score(self) -> float:
        """Mean of the chunks' scores, 0 to 1."""
        return sum(item.score for item in self.chunks) / max(1, len(self.chunks))

    @property
    def mean_gain(self) -> float:
        """Mean of the chunks' gains, in nats per token."""
        return sum(item.gain for item in self.chunks) / max(1, len(self.chunks))

    def worst(self, count: int) -> list[ChunkFidelity]:
        """Return the chunks with the lowest scores, lowest first."""
        return sorted(self.chunks, key=lambda item: (item.score, item.chunk))[:count]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {
            "soft_tokens": self.soft_tokens,
            "rate": self.rate,
            "mean_score": self.mean_score,
            "mean_gain": self.mean_gain,
            "chunks": [{**asdict(item), "score": item.score, "gain": item.gain} for item in self.chunks],
        }


def restate(reader: ChunkReader, content: Content, index: int, num_soft_tokens: int) -> str:
    """Return the decoder's restatement of a chunk from its soft tokens alone."""
    processor = reader.processor
    with reader.lock:
        sample = processor.lay_out(
            [content.texts[index]], UNDERSTANDING_PROMPT, num_soft_tokens=num_soft_tokens
        )
    soft_tokens = soft_tokens_of(reader.model, content.read, [index], [num_soft_tokens])
    longest = content.token_counts[index] * 3 // 2 + 8
    ids = generate_ids(reader.model, sample.input_ids, soft_tokens, max_new_tokens=longest)
    with reader.lock:
        return processor.decode_answer(ids)


def measure_fidelity(
    reader: ChunkReader,
    content: Content,
    level: Level,
    indices: Sequence[int] | None = None,
    *,
    batch_tokens: int = 2048,
    progress: bool | None = None,
) -> FidelityReport:
    """Measure how well the decoder can restate chunks.

    Args:
        reader: Its model read the content.
        content: The chunks.
        level: Soft tokens of each chunk of the content.
        indices: Chunks to measure; None for all.
        batch_tokens: Most decoder positions in a batch, padding included.
        progress: Show a bar; by default on a terminal when there is much to do.

    Raises:
        ContextOverflowError: If a chunk's soft tokens and text do not fit the decoder's window.
    """
    processor = reader.processor
    indices = range(len(content.chunks)) if indices is None else indices
    texts = [content.texts[index] for index in indices]
    counts = [level.counts[index] for index in indices]
    with reader.lock:
        given = [_sample(processor, [text], text, n) for text, n in zip(texts, counts, strict=True)]
        without = [_sample(processor, [], text, 1) for text in texts]
        spans = [_token_spans(processor, text) for text in texts]
    window = getattr(reader.model.config.text_config, "max_position_embeddings", None)
    for sample, index in zip(given, indices, strict=True):
        if window is not None and len(sample.input_ids) > window:
            raise ContextOverflowError(
                f"chunk {index} and its soft tokens take {len(sample.input_ids)} positions, but the "
                f"decoder's window has {window}; read the context with smaller chunks"
            )

    def soften(rows: list[int]) -> torch.Tensor:
        chosen = [indices[row] for row in rows]
        return soft_tokens_of(reader.model, content.read, chosen, [counts[row] for row in rows])

    show = progress if progress is not None else sys.stderr.isatty() and len(texts) > 64
    with tqdm(total=2 * len(texts), unit="pass", desc="fidelity", disable=not show, leave=False) as bar:
        scored = _score(reader, given, soften, batch_tokens, bar)
        baseline = _score(reader, without, None, batch_tokens, bar)
    rows = [
        _measured(content, index, span, ours, base)
        for index, span, ours, base in zip(indices, spans, scored, baseline, strict=True)
    ]
    soft_tokens = level.soft_tokens or -(-sum(counts) // max(1, len(counts)))
    return FidelityReport(rows, soft_tokens, level.rate)


_Scored = list[tuple[float, bool]]  # for each token: its log-probability, and whether it is the first choice


def _measured(
    content: Content, index: int, spans: list[tuple[int, int]] | None, ours: _Scored, base: _Scored
) -> ChunkFidelity:
    """Return the scores of a chunk from its token probabilities with and without soft tokens."""
    chunk, text = content.chunks[index], content.texts[index]
    is_first = [first for _, first in ours]
    count = max(1, len(ours))
    return ChunkFidelity(
        chunk=index,
        source=content.sources[index],
        start=chunk.start,
        end=chunk.end,
        num_tokens=len(ours),
        log_probability=sum(value for value, _ in ours) / count,
        baseline_log_probability=sum(value for value, _ in base) / count,
        token_accuracy=sum(is_first) / count,
        numbers_kept=share_kept(find_numbers(text), spans, is_first),
        names_kept=share_kept(find_names(text), spans, is_first),
    )


def _sample(processor: E2LLMProcessor, chunks: list[str], text: str, num_soft_tokens: int) -> DecoderInput:
    return processor.lay_out(chunks, UNDERSTANDING_PROMPT, text, num_soft_tokens=num_soft_tokens)


def _token_spans(processor: E2LLMProcessor, text: str) -> list[tuple[int, int]] | None:
    """Return the characters `[start, end)` of each token of a text; None if tokens cannot be located."""
    if not processor.tokenizer.is_fast:
        return None
    prefix = processor.template.answer_prefix
    encoded = processor.tokenizer(
        prefix + text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
    )
    if list(encoded.input_ids) != processor.encode(prefix + text):
        return None  # the text looks like a control token and was encoded in pieces
    return [(start - len(prefix), end - len(prefix)) for start, end in encoded.offset_mapping]


@torch.inference_mode()
def _score(
    reader: ChunkReader,
    samples: list[DecoderInput],
    soften: Callable[[list[int]], torch.Tensor] | None,
    batch_tokens: int,
    bar: Any,
) -> list[_Scored]:
    """Score the answers of samples, longest first, in batches of similar length.

    Args:
        reader: Its model and processor are used.
        samples: Inputs with their answers.
        soften: Makes the soft tokens `[R, D]` of the samples of a batch; None without chunks.
        batch_tokens: See `measure_fidelity`.
        bar: Counts the samples.
    """
    model, processor = reader.model, reader.processor
    device = model.get_input_embeddings().weight.device
    num_end = len(processor.template.after_answer)
    order = sorted(range(len(samples)), key=lambda row: len(samples[row].input_ids), reverse=True)
    result: dict[int, _Scored] = {}
    start = 0
    while start < len(order):
        size = max(1, batch_tokens // len(samples[order[start]].input_ids))
        rows = order[start : start + size]
        start += size
        batch = processor.collate(
            [DecoderInput(samples[row].input_ids, samples[row].labels) for row in rows], with_labels=True
        )
        chunks = {} if soften is None else {"chunk_embeds": soften(rows).to(device)}
        inputs = {name: tensor.to(device) for name, tensor in batch.items()}
        output = model(**inputs, **chunks, only_label_logits=True)
        labels = inputs["labels"][:, 1:]
        is_first = output.logits.argmax(dim=-1) == labels[labels != IGNORE_INDEX]
        tokens = list(zip((-output.token_losses).tolist(), is_first.tolist(), strict=True))
        for row, count in zip(rows, (labels != IGNORE_INDEX).sum(dim=1).tolist(), strict=True):
            result[row], tokens = tokens[: count - num_end], tokens[count:]  # without the end token
        bar.update(len(rows))
    return [result[row] for row in range(len(samples))]


def find_numbers(text: str) -> list[tuple[int, int]]:
    """Return the characters `[start, end)` of each number; `9:30` is one, the digits of `B52` are not."""
    return [match.span() for match in _NUMBER.finditer(text)]


def find_names(text: str) -> list[tuple[int, int]]:
    """Return the characters `[start, end)` of each name.

    A name is an identifier (`max_size`, `B52`, `camelCase`), a word of two or more capitals (`NASA`), or a
    capitalised word that does not begin a sentence. A sentence begins at the start of the text or of a line
    and after `. ! ? … :`, with quotes and brackets in between, but not after a title such as `Mr.`. `I` and
    its short forms (`I'm`) are not names.
    """
    return [match.span() for match in _WORD.finditer(text) if _is_name(match.group(), text[: match.start()])]


def _is_name(word: str, before: str) -> bool:
    stem = re.split("['’-]", word)[0]
    has_hump = any(one.islower() and other.isupper() for one, other in pairwise(stem))
    has_digit = stem[0].isalpha() and any(item.isdigit() for item in stem)
    is_acronym = len(stem) > 1 and stem.isupper()
    if "_" in stem.strip("_") or has_hump or has_digit or is_acronym:
        return any(item.isalpha() for item in word)
    if not stem[0].isupper() or stem == "I":
        return False
    tail = before[-80:].rstrip(_BETWEEN)
    begins_sentence = not tail or (tail[-1] in _SENTENCE_END and not _TITLE_END.search(tail))
    return not begins_sentence


def share_kept(
    found: Sequence[tuple[int, int]], spans: list[tuple[int, int]] | None, is_first: list[bool]
) -> float | None:
    """Return the share of the pieces whose every token is the decoder's first choice; None if none exist.

    Args:
        found: Characters `[start, end)` of each piece, such as a number.
        spans: Characters of each token; None if unknown.
        is_first: Whether each token is the decoder's first choice.
    """
    if spans is None or len(spans) != len(is_first):
        return None
    kept = []
    for first_character, end_character in found:
        inside = [
            first
            for (start, end), first in zip(spans, is_first, strict=True)
            if start < end_character and end > first_character
        ]
        if inside:
            kept.append(all(inside))
    return sum(kept) / len(kept) if kept else None


SCALE = "scale: ▁ below 1/8, each block 1/8 more, █ 7/8 to 1"
_BLOCKS = "▁▂▃▄▅▆▇█"
_COLOURS = (196, 202, 208, 214, 184, 148, 112, 40)  # red to green in the 256-colour palette


def heat_strip(scores: Sequence[float], width: int, *, colour: bool = False) -> str:
    """Return a line of blocks, one per chunk in order; a higher block means a better score.

    Args:
        scores: One per chunk, 0 to 1.
        width: Most blocks; with more chunks, each block is the mean of a run of them.
        colour: Colour the blocks from red (0) to green (1) by terminal codes.
    """
    width = max(1, min(width, len(scores)))
    cells = []
    for column in range(width):
        run = scores[column * len(scores) // width : (column + 1) * len(scores) // width]
        if not run:
            break
        level = min(len(_BLOCKS) - 1, max(0, int(sum(run) / len(run) * len(_BLOCKS))))
        cells.append(f"\x1b[38;5;{_COLOURS[level]}m{_BLOCKS[level]}" if colour else _BLOCKS[level])
    return "".join(cells) + ("\x1b[0m" if colour else "")


def check_picture(file: Path) -> None:
    """Raise early, before measuring, if matplotlib is missing or `file` is a folder."""
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib", "train")
    if file.is_dir():
        raise E2LLMError(f"{file} is a folder; name a file such as {file / 'fidelity.png'}")


def draw_fidelity(report: FidelityReport, file: Path, title: str) -> None:
    """Write a PNG of each chunk's probability with and without soft tokens, and of numbers and names kept."""
    check_picture(file)
    from matplotlib.figure import Figure

    chunks = report.chunks
    places = [item.chunk for item in chunks]
    figure = Figure(figsize=(10, 5.5), layout="constrained")
    strip, lines, kept = figure.subplots(3, 1, height_ratios=[1, 3, 2])
    strip.imshow([[item.score for item in chunks]], aspect="auto", cmap="RdYlGn", vmin=0, vmax=1)
    strip.set_yticks([])
    strip.set_xticks([])
    level = f"{counted(report.soft_tokens, 'soft token')} per chunk"
    if report.rate is not None:
        level = f"rate {report.rate}"
    strip.set_title(
        f"{title}: {level}, mean score {report.mean_score:.3f}, gain {report.mean_gain:+.2f} nats per token"
    )
    lines.plot(places, [item.log_probability for item in chunks], ".-", label="with soft tokens")
    lines.plot(places, [item.baseline_log_probability for item in chunks], ".-", label="without")
    lines.set_ylabel("log-probability\nper token (nats)")
    lines.legend()
    for name, label in (("numbers_kept", "numbers"), ("names_kept", "names")):
        pairs = [(item.chunk, getattr(item, name)) for item in chunks if getattr(item, name) is not None]
        kept.plot([place for place, _ in pairs], [value for _, value in pairs], ".", label=label)
    kept.set_ylim(-0.05, 1.05)
    kept.set_ylabel("share kept")
    kept.set_xlabel("chunk")
    kept.legend()
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    write_atomically(file, stream.getvalue())
