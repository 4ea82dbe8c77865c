"""The model that lm_eval asks: three kinds of requests, each answered by itself.

Nothing of lm_eval is imported here before it is used; `e2llm.evaluation.harness` makes the class that it
knows.
"""

import logging
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from tqdm import tqdm
from transformers import StoppingCriteriaList

from e2llm.errors import ContextOverflowError, E2LLMError
from e2llm.evaluation.harness_prompts import LaidPrompt, PromptLayout
from e2llm.evaluation.harness_rolling import RollingScorer
from e2llm.evaluation.harness_scoring import StopTexts, TokenScorer
from e2llm.evaluation.harness_settings import HarnessSettings, parse_fields
from e2llm.inference.decoding.generation import generate_ids
from e2llm.inference.engine import Engine
from e2llm.modeling.rates import parse_rate
from e2llm.version import __version__

_log = logging.getLogger(__name__)
_DTYPES = ("auto", "float32", "bfloat16", "float16")
_UNSTATED_WINDOW = 2048  # lm_eval's, for a decoder that states none
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p")

Result = TypeVar("Result")


class HarnessModel:
    """Answers lm_eval's requests; docs/harness.md describes the arguments with examples.

    Args:
        pretrained: Folder, hub id, or the name of an embedded model; or an engine.
        soft_tokens: See `HarnessSettings`, as for all up to `rolling`.
        expand: See there.
        select: See there.
        context_field: Fields of a task's row that may hold its document: `a+b`, or a list.
        min_context_tokens: See there.
        raw_tokens: See there.
        max_length: See there.
        max_gen_toks: See there.
        overflow: See there.
        rolling: See there.
        rate: See there.
        batch_size: Taken for lm_eval's sake; requests are answered one after the other.
        max_batch_size: The same.
        device: Such as `cpu` or `cuda`. A GPU that is not there is not an error, as lm_eval's command line
            names one by default: the CPU is taken, with a warning.
        dtype: `auto`, `float32`, `bfloat16` or `float16`; by default as `Engine.from_pretrained` says.
        revision: Of a model on a hub.
        encoder: Where the encoder that the checkpoint refers to is now.
        decoder: The same for the decoder.
        unknown: Refused, with the names that are known.

    Raises:
        E2LLMError: If an argument is unknown or out of its range, or the model cannot be loaded.
    """

    def __init__(
        self,
        pretrained: str | Engine = "smol",
        soft_tokens: int | None = None,
        expand: int = 0,
        select: str = "bm25",
        context_field: str | Sequence[str] | None = None,
        min_context_tokens: int = 128,
        raw_tokens: int | None = None,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        overflow: Any = "compress",
        rolling: Any = "compress",
        rate: int | str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
        dtype: str | None = None,
        revision: str | None = None,
        encoder: str | None = None,
        decoder: str | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__()
        if unknown:
            known = [
                name for name in HarnessModel.__init__.__annotations__ if name not in ("return", "unknown")
            ]
            raise E2LLMError(f"unknown model argument {', '.join(unknown)}; known are: {', '.join(known)}")
        self.settings = HarnessSettings(
            soft_tokens,
            expand,
            select,
            parse_fields(context_field),
            min_context_tokens,
            raw_tokens,
            max_length,
            max_gen_toks,
            overflow,
            rolling,
            parse_rate(rate) if isinstance(rate, str) else rate,
        )
        if str(batch_size) != "1" or max_batch_size is not None:
            _log.warning(
                "requests are answered one after the other; batch_size and max_batch_size change nothing"
            )
        options = {"dtype": dtype, "revision": revision, "encoder": encoder, "decoder": decoder}
        self.engine = open_engine(pretrained, device, {key: value for key, value in options.items() if value})
        self.engine.dial.check(soft_tokens or None, self.settings.rate)
        window = self.engine.window
        if max_length is not None and window is not None and max_length > window:
            raise E2LLMError(f"max_length={max_length} is more than the decoder's window of {window}")
        self.max_length = max_length or window or _UNSTATED_WINDOW
        if raw_tokens is not None and raw_tokens >= self.max_length:
            raise E2LLMError(f"raw_tokens={raw_tokens} fills all {self.max_length} positions; lower it")
        self.model_name = pretrained if isinstance(pretrained, str) else "engine"
        self.layout = PromptLayout(self.engine, self.settings)
        self._raw_text = self.layout.raw_text
        self._scorer = TokenScorer(self.engine)
        self.counts: Counter[str] = Counter()
        self._rolling = RollingScorer(
            self.engine, self.settings, self.max_length, self._raw_text, self._scorer, self.counts
        )
        self._device = self.engine.device

    # --- what lm_eval asks --------------------------------------------------------------------------------

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation, and whether greedy decoding would give it."""
        return self._answer_all("loglikelihood", requests, self._likelihood, disable_tqdm)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of each whole text."""
        return self._answer_all(
            "loglikelihood_rolling",
            requests,
            lambda request: self._rolling.score(request.args[0]),
            disable_tqdm,
        )

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """An answer to each prompt, up to the first of its stop texts."""
        return self._answer_all("generate_until", requests, self._generate, disable_tqdm)

    def _answer_all(
        self, kind: str, requests: Sequence[Any], answer: Callable[[Any], Result], disable_tqdm: bool
    ) -> list[Result]:
        results = []
        hidden = disable_tqdm or not sys.stderr.isatty()
        for request in tqdm(requests, desc=kind, disable=hidden, leave=False):
            try:
                result = answer(request)
            except E2LLMError as error:
                place = f"{request.task_name or 'request'}, document {request.doc_id}"
                raise type(error)(f"{place}: {error}") from error
            self._keep(kind, request.args, result)
            results.append(result)
        return results

    def _keep(self, kind: str, arguments: tuple[Any, ...], result: Any) -> None:
        """Told of each answer as it comes."""

    # --- likelihood ---------------------------------------------------------------------------------------

    def _likelihood(self, request: Any) -> tuple[float, bool]:
        prompt, continuation = request.args
        room = self.max_length + 1 - len(self._raw_text.encode(continuation))
        while True:  # behind other text the continuation may take more tokens
            laid = self.layout.lay_out(prompt, request.doc, room)
            before, scored = self._split_ids(laid, continuation)
            excess = len(before) + len(scored) - (self.max_length + 1)
            if excess <= 0 or laid.soft_tokens is None:
                break
            room -= excess
        if not scored:
            return 0.0, True
        before = self._fit(before, self.max_length + 1 - len(scored), laid)
        return self._scorer.score([*before, *scored], len(scored), laid.soft_tokens, laid.source)

    def _split_ids(self, laid: LaidPrompt, continuation: str) -> tuple[list[int], list[int]]:
        """Ids of what stands before a continuation, and of the continuation, as lm_eval tells them apart.

        White space at the end of the prompt counts to the continuation, and both are encoded as one text.
        """
        encode, first = self._raw_text.encode, self._raw_text.prefix_id
        text = laid.tail.rstrip()
        continuation = laid.tail[len(text) :] + continuation
        if not text:
            scored = encode(continuation)
            if laid.head:
                return laid.head, scored
            if first is None:
                raise E2LLMError("the prompt is empty, and the decoder has no token that begins a text")
            return ([first], scored) if scored[:1] != [first] else (scored[:1], scored[1:])
        before = encode(text, at_start=not laid.head)
        whole = encode(text + continuation, at_start=not laid.head)
        return [*laid.head, *before], whole[len(before) :]

    def _fit(self, ids: list[int], room: int, laid: LaidPrompt) -> list[int]:
        """The end of the prompt's ids that fits; what was done with the prompt is counted."""
        excess = len(ids) - room
        if room < 1:
            raise ContextOverflowError(
                f"the answer takes {self.max_length - room} of {self.max_length} positions and leaves none "
                "for the prompt; lower max_gen_toks, or raise max_length"
            )
        if excess > 0 and (self.settings.overflow == "error" or laid.soft_tokens is not None):
            raise ContextOverflowError(
                f"the prompt is {excess} tokens too long for {room} positions; use overflow=compress or "
                "truncate"
            )
        self.counts["prompts"] += 1
        self.counts["cut off" if excess > 0 else laid.way] += 1
        self.counts["chunks left out"] += laid.left_out
        self.counts["context tokens"] += laid.num_context_tokens
        self.counts["context positions"] += laid.num_context_positions
        return ids[max(0, excess) :]

    # --- generation ---------------------------------------------------------------------------------------

    def _generate(self, request: Any) -> str:
        from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text

        prompt, wanted = request.args
        options = dict(normalize_gen_kwargs(wanted, self.settings.max_gen_toks))
        stops = [text for text in options.pop("until") if text]
        max_new_tokens = options.pop("max_gen_toks")
        if options.pop("max_length", None) is not None:
            _log.warning("max_length of a task's generation has no effect; use max_gen_toks")
        if options.get("temperature", 1.0) == 0:
            options["do_sample"] = False
        if not options["do_sample"]:
            options = {name: value for name, value in options.items() if name not in _SAMPLING}
        room = self.max_length - max_new_tokens
        laid = self.layout.lay_out(prompt, request.doc, max(1, room))
        ids = [*laid.head, *self._raw_text.encode(laid.tail, at_start=not laid.head)]
        ids = self._fit(ids, room, laid)
        if not ids and self._raw_text.prefix_id is not None:
            ids = [self._raw_text.prefix_id]
        stop = StopTexts(stops, lambda new: self._raw_text.decode(new, skip_special_tokens=False), len(ids))
        new = generate_ids(
            self.engine.model,
            ids,
            laid.soft_tokens,
            max_new_tokens=max_new_tokens,
            stopping_criteria=StoppingCriteriaList([stop] if stops else []),
            **options,
        )
        return str(postprocess_generated_text(self._raw_text.decode(new), stops, None))

    # --- what lm_eval wants to know -----------------------------------------------------------------------

    @property
    def tokenizer(self) -> Any:
        """The decoder's tokenizer."""
        return self.engine.processor.tokenizer

    @property
    def eot_token_id(self) -> int | None:
        """Id of the token that ends a text."""
        return None if self.tokenizer.eos_token_id is None else int(self.tokenizer.eos_token_id)

    @property
    def max_gen_toks(self) -> int:
        """Longest answer in tokens, for tasks that name none."""
        return self.settings.max_gen_toks

    @property
    def tokenizer_name(self) -> str:
        """Tells prompts that lm_eval keeps for a chat template apart."""
        return self.model_name.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The decoder's own template, which is the only one.

        Raises:
            E2LLMError: If another is named, or there is none.
        """
        if chat_template is False or chat_template is None:
            return None
        if isinstance(chat_template, str):
            raise E2LLMError(f"apply_chat_template takes no name here, got {chat_template!r}")
        template = getattr(self.tokenizer, "chat_template", None)
        if not template:
            raise E2LLMError("the decoder's tokenizer has no chat template; leave out apply_chat_template")
        return str(template)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Render a conversation as the decoder's template lays it out.

        Raises:
            E2LLMError: If the template fails, or there is none.
        """
        from jinja2 import TemplateError

        self.chat_template(True)
        options = {
            "tokenize": False,
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": not add_generation_prompt,
            "enable_thinking": False,  # as in training
        }
        try:
            prompt = str(self.tokenizer.apply_chat_template(chat_history, **options))
        except (TemplateError, ValueError, TypeError, KeyError) as error:
            raise E2LLMError(f"the decoder's chat template cannot be used: {error}") from error
        first = next((turn["content"] for turn in chat_history if turn["role"] == "user"), "")
        self.layout.opening = prompt[: max(0, prompt.find(first.strip()))]
        return prompt

    def get_model_info(self) -> dict[str, Any]:
        """What lm_eval writes beside the scores: the model, the settings, and what was done with prompts."""
        settings = {name: value for name, value in vars(self.settings).items() if name != "context_fields"}
        return {
            "model_num_parameters": sum(weight.numel() for weight in self.engine.model.parameters()),
            "model_dtype": str(self.engine.model.get_input_embeddings().weight.dtype),
            "e2llm_version": __version__,
            "e2llm_device": str(self.engine.device),  # lm_eval writes the one that was asked for
            "e2llm_settings": {**settings, "context_field": "+".join(self.settings.context_fields)},
            "e2llm_prompts": dict(self.counts),
        }


def open_engine(pretrained: str | Engine, device: str | None, options: dict[str, Any]) -> Engine:
    """The engine of a model, or the engine that is given.

    Raises:
        E2LLMError: If it cannot be loaded, or an engine is given and options beside it.
    """
    if isinstance(pretrained, Engine):
        if options or device is not None:
            raise E2LLMError(
                "device, dtype, revision, encoder and decoder go with a name, not with an engine"
            )
        return pretrained
    if (dtype := options.get("dtype")) is not None and dtype not in _DTYPES:
        raise E2LLMError(f"dtype={dtype!r}: choose one of: {', '.join(_DTYPES)}")
    if str(device).startswith("cuda") and not torch.cuda.is_available():
        _log.warning("device %s is not there; using the CPU", device)
        device = "cpu"
    return Engine.from_pretrained(pretrained, device=device, **options)
