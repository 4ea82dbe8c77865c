"""What the decoder knows of single chunks: it restates each from its soft tokens, or is measured at that."""

from collections.abc import Sequence
from dataclasses import replace
from weakref import WeakKeyDictionary

from e2llm.inference.content import Content
from e2llm.inference.dial import Level
from e2llm.inference.fidelity import FidelityReport, measure_fidelity
from e2llm.inference.generation import generate_ids
from e2llm.inference.reader import ChunkReader, soft_tokens_of
from e2llm.prompts import UNDERSTANDING_PROMPT


class Restater:
    """Has a decoder restate chunks; what was measured of a whole content is remembered with it.

    Args:
        reader: Its model read the contents.
    """

    def __init__(self, reader: ChunkReader) -> None:
        self.model = reader.model
        self.processor = reader.processor
        self.lock = reader.lock
        self._measured: WeakKeyDictionary[Content, dict[tuple[int, ...], FidelityReport]] = (
            WeakKeyDictionary()
        )

    def restate(self, content: Content, index: int, num_soft_tokens: int) -> str:
        """The decoder's restatement of a chunk that exists, from so many soft tokens and nothing else."""
        with self.lock:
            sample = self.processor.lay_out(
                [content.texts[index]], UNDERSTANDING_PROMPT, num_soft_tokens=num_soft_tokens
            )
        longest = content.token_counts[index] * 3 // 2 + 8
        soft = soft_tokens_of(self.model, content.read, [index], [num_soft_tokens])
        ids = generate_ids(self.model, sample.input_ids, soft, max_new_tokens=longest)
        with self.lock:
            return self.processor.decode_answer(ids)

    def fidelity(
        self, content: Content, indices: Sequence[int] | None, level: Level, progress: bool | None
    ) -> FidelityReport:
        """Measure restating.

        Args:
            content: What was read.
            indices: Chunks that exist; None for all, whose report is remembered.
            level: Soft tokens of each chunk of the content.
            progress: Show a bar; None for one on a terminal when there is much to do.
        """
        known, key = self._measured.setdefault(content, {}), tuple(level.counts)
        if key in known and indices is None:
            return known[key]
        chosen = list(range(len(content.chunks)) if indices is None else indices)
        report = measure_fidelity(
            self.model,
            self.processor,
            [content.texts[index] for index in chosen],
            content.read,
            indices=chosen,
            counts=[level.counts[index] for index in chosen],
            places=[
                (index, content.sources[index], content.chunks[index].start, content.chunks[index].end)
                for index in chosen
            ],
            progress=progress,
            lock=self.lock,
        )
        if level.soft_tokens is not None or level.rate is not None:
            per_chunk = report.soft_tokens if level.soft_tokens is None else level.soft_tokens
            report = replace(report, soft_tokens=per_chunk, rate=level.rate)
        if indices is None:
            known[key] = report
        return report
