"""What the decoder knows of single chunks: it restates each from its soft tokens, or is measured at that."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from weakref import WeakKeyDictionary

from e2llm.inference.content import Content
from e2llm.inference.fidelity import FidelityReport, measure_fidelity
from e2llm.inference.generation import generate_ids
from e2llm.modeling.model import E2LLMForConditionalGeneration
from e2llm.modeling.processor import E2LLMProcessor
from e2llm.prompts import UNDERSTANDING_PROMPT


class Restater:
    """Has a decoder restate chunks; what was measured of a whole content is remembered with it.

    Args:
        model: The model that read the contents.
        processor: Its processor.
        lock: Held while the tokenizer works.
    """

    def __init__(
        self,
        model: E2LLMForConditionalGeneration,
        processor: E2LLMProcessor,
        lock: AbstractContextManager[object],
    ) -> None:
        self.model = model
        self.processor = processor
        self.lock = lock
        self._measured: WeakKeyDictionary[Content, dict[int, FidelityReport]] = WeakKeyDictionary()

    def restate(self, content: Content, index: int, num_soft_tokens: int) -> str:
        """The decoder's restatement of a chunk that exists, from so many soft tokens and nothing else."""
        with self.lock:
            sample = self.processor.lay_out(
                [content.texts[index]], UNDERSTANDING_PROMPT, num_soft_tokens=num_soft_tokens
            )
        longest = content.token_counts[index] * 3 // 2 + 8
        soft = content.read.soft_tokens[index : index + 1]
        ids = generate_ids(self.model, sample.input_ids, soft, max_new_tokens=longest)
        with self.lock:
            return self.processor.decode_answer(ids)

    def fidelity(
        self, content: Content, indices: Sequence[int] | None, num_soft_tokens: int, progress: bool | None
    ) -> FidelityReport:
        """Measure restating.

        Args:
            content: What was read.
            indices: Chunks that exist; None for all, whose report is remembered.
            num_soft_tokens: K per chunk.
            progress: Show a bar; None for one on a terminal when there is much to do.
        """
        known = self._measured.setdefault(content, {})
        if num_soft_tokens in known and indices is None:
            return known[num_soft_tokens]
        chosen = list(range(len(content.chunks)) if indices is None else indices)
        report = measure_fidelity(
            self.model,
            self.processor,
            [content.texts[index] for index in chosen],
            content.read.soft_tokens[chosen],
            num_soft_tokens=num_soft_tokens,
            places=[
                (index, content.sources[index], content.chunks[index].start, content.chunks[index].end)
                for index in chosen
            ],
            progress=progress,
            lock=self.lock,
        )
        if indices is None:
            known[num_soft_tokens] = report
        return report
