"""LLMLingua-2: a token classifier keeps the words of a text that matter, whatever the question will be.

After Pan et al., "LLMLingua-2" (arXiv 2403.12968), by the package llmlingua, which is optional;
docs/systems.md says what differs from its own entry point.
"""

import sys
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

from transformers import AutoConfig, AutoModelForTokenClassification

from e2llm.errors import CheckpointError, ContextOverflowError, MissingExtraError
from e2llm.evaluation.items import Item
from e2llm.evaluation.systems.base import View, raw_view
from e2llm.evaluation.systems.compared import FullSystem
from e2llm.inference.engine import Engine
from e2llm.measuring import PeakMemory
from e2llm.modeling.checkpoints.parts import encoder_token_limit, load_tokenizer, reject_remote_code
from e2llm.modeling.checkpoints.reporting import listing, quiet_loading, readable_errors
from e2llm.modeling.checkpoints.sources import weight_files
from e2llm.modeling.raw_text import RawText

PUBLISHED_COMPRESSOR = "microsoft/llmlingua-2-xlm-roberta-large-meetingbank"

# The package tells the two kinds of tokenizer apart by these pieces of a model's name.
_KINDS = {"bert": "bert-base-multilingual-cased", "xlm-roberta": "xlm-roberta-large"}
_MAX_CHUNK_TOKENS = 512
_CHUNKS_PER_PASS = 16


class DecoderCounter:
    """Counts tokens for the package as the decoder does, instead of a tokenizer that it downloads."""

    def __init__(self, engine: Engine) -> None:
        self.encode = engine.processor.encode


def load_classifier(name: str) -> tuple[Any, Any]:
    """Load a classifier of tokens to keep, and its tokenizer, from a folder or hub id.

    Raises:
        CheckpointError: If it is missing or incomplete, brings code, has no safetensors weights, or is not a
            classifier that the package can use.
    """
    with readable_errors(f"compressor {name}"):
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        reject_remote_code(config, name)
        if config.model_type not in _KINDS or config.num_labels != 2:
            raise CheckpointError(
                f"compressor {name}: is a {config.model_type} with {config.num_labels} labels; LLMLingua-2 "
                f"has {' or '.join(_KINDS)} with 2"
            )
        weight_files(name)
        with quiet_loading():
            model, info = AutoModelForTokenClassification.from_pretrained(
                name, use_safetensors=True, trust_remote_code=False, output_loading_info=True
            )
    problems = [*info["missing_keys"], *(item[0] for item in info["mismatched_keys"])]
    if problems:
        raise CheckpointError(
            f"compressor {name}: the weights lack {listing(problems)}, which would start at random"
        )
    return model.eval(), load_tokenizer(name)


def make_compressor(name: str, engine: Engine) -> Any:
    """Return the package's compressor with parts loaded here.

    Its constructor is not run: it would allow a checkpoint's code, download a tokenizer and seed the
    process's random generators.

    Raises:
        MissingExtraError: If the package is not installed.
        CheckpointError: If the classifier cannot be loaded.
    """
    try:
        from llmlingua import PromptCompressor
    except ImportError as error:
        raise MissingExtraError("llmlingua", "llmlingua") from error
    model, tokenizer = load_classifier(name)
    compressor = PromptCompressor.__new__(PromptCompressor)
    compressor.model, compressor.tokenizer = model.to(engine.device), tokenizer
    compressor.device = engine.device
    compressor.model_name = _KINDS[model.config.model_type]
    compressor.oai_tokenizer = DecoderCounter(engine)
    compressor.max_seq_len = min(_MAX_CHUNK_TOKENS, encoder_token_limit(tokenizer, model.config))
    tokenizer.model_max_length = sys.maxsize  # whole texts are cut into tokens before they are cut to fit
    compressor.max_batch_size = _CHUNKS_PER_PASS
    compressor.max_force_token, compressor.added_tokens = 0, []
    compressor.special_tokens = set(tokenizer.all_special_tokens)
    return compressor


@dataclass
class LlmLingua2System(FullSystem):
    """The words that LLMLingua-2 keeps, at the largest percentage of the text that fits.

    Attributes:
        compressor: Folder or hub id of the token classifier.
    """

    compressor: str = PUBLISHED_COMPRESSOR
    name: ClassVar[str] = "llmlingua2"

    def __post_init__(self) -> None:
        """Load the classifier.

        Raises:
            MissingExtraError: If llmlingua is not installed.
            CheckpointError: If the classifier cannot be loaded.
        """
        self._compressor = make_compressor(self.compressor, self.engine)
        self._compress = lru_cache(maxsize=16)(self._compressed)

    def cut(self, item: Item, room: int) -> View:
        """Give the compressed text."""
        count = self.readings.count_tokens(item.context)
        percent, seconds = 100 * room // count, 0.0
        while percent > 0:
            text, more_seconds, peak_bytes = self._compress(item.context, percent)
            seconds += more_seconds
            num_tokens = self.engine.count_tokens(text)
            if num_tokens <= room:
                facts = {"kept_percent": percent}
                reading = {"read_seconds": seconds, "read_peak_bytes": peak_bytes}
                return raw_view(RawText(text), **reading, rewritten=facts)
            percent = min(percent - 1, percent * room // num_tokens)
        raise ContextOverflowError(
            f"the context has {count:,} tokens, but there is room for {room:,}; LLMLingua-2 keeps at least 1%"
        )

    def _compressed(self, text: str, percent: int) -> tuple[str, float, int | None]:
        """Keep a percentage of a text; returns the text with the seconds and peak memory that it took."""
        started = time.perf_counter()
        with PeakMemory(self.engine.device) as memory:
            # The package rounds to a whole percentile; the half keeps it from rounding to the next one.
            result = self._compressor.compress_prompt_llmlingua2([text], rate=(percent + 0.5) / 100)
        return result["compressed_prompt"], time.perf_counter() - started, memory.extra_bytes
