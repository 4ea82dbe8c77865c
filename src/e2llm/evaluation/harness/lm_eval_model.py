"""The model that lm_eval asks: lm_eval's own `hf` for raw text, the engine where text becomes soft tokens.

`e2llm.evaluation.harness` makes the class that lm_eval registers, so that this module imports lm_eval only
where it is used.
"""

import copy
import inspect
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from tqdm import tqdm

from e2llm.errors import ContextOverflowError, E2LLMError
from e2llm.evaluation.harness.prompt_layout import HarnessSettings, LaidPrompt, PromptLayout
from e2llm.inference.decoding.generation import generate_ids
from e2llm.inference.engine import Engine
from e2llm.version import __version__

_log = logging.getLogger(__name__)
_UNSTATED_WINDOW = 2048  # lm_eval's, for a decoder that states none
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p")


class HarnessModel:
    """A mixin for lm_eval's `HFLM`: prompts with a document, or too long, are answered with soft tokens.

    Everything else, whole-text likelihoods included, is `HFLM` on the decoder. docs/harness.md describes the
    arguments with examples.

    Args:
        pretrained: Folder, hub id, or the name of an embedded model; or an engine.
        device: Such as `cpu` or `cuda`. Without a GPU, `cuda` becomes the CPU with a warning, as lm_eval's
            command line asks for a GPU by default.
        dtype: `auto`, `float32`, `bfloat16` or `float16`; by default as `Engine.from_pretrained` says.
        revision: Revision of a model on a hub.
        encoder: New place of the encoder that the checkpoint refers to.
        decoder: New place of the decoder that the checkpoint refers to.
        batch_size: Prompts of raw text to answer at once; those with soft tokens are answered one by one.
        max_batch_size: Most of them, for `batch_size="auto"`.
        settings: Those of `HarnessSettings`.

    Raises:
        E2LLMError: If an argument is unknown or out of range, or the model cannot be loaded.
    """

    cache_hook: Any
    tokenizer: Any
    max_length: int

    def __init__(
        self,
        pretrained: str | Engine = "smol",
        device: str | None = None,
        dtype: str | None = None,
        revision: str | None = None,
        encoder: str | None = None,
        decoder: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        **settings: Any,
    ) -> None:
        self.settings = HarnessSettings.read(settings)
        options = {"dtype": dtype, "revision": revision, "encoder": encoder, "decoder": decoder}
        self.engine = open_engine(pretrained, device, {key: value for key, value in options.items() if value})
        self.engine.dial.check(self.settings.soft_tokens or None, self.settings.rate)
        max_length, window = self.settings.max_length, self.engine.window
        if max_length is not None and window is not None and max_length > window:
            raise E2LLMError(f"max_length must be at most the decoder's window, {window}; got {max_length}")
        max_length = max_length or window or _UNSTATED_WINDOW
        if (self.settings.raw_tokens or 0) >= max_length:
            raise E2LLMError(
                f"raw_tokens={self.settings.raw_tokens} fills all {max_length} positions; lower it"
            )
        super().__init__(
            pretrained=self.engine.model.language_model,
            tokenizer=copy.deepcopy(self.engine.processor.tokenizer),  # HFLM changes its padding
            backend="causal",
            max_length=max_length,
            batch_size=batch_size,
            max_batch_size=max_batch_size or 64,
            enable_thinking=False,  # as in training
        )  # type: ignore[call-arg]
        self.layout = PromptLayout(self.engine, self.settings)
        self.counts: Counter[str] = Counter()
        forward = inspect.signature(self.engine.model.language_model.forward).parameters
        self._takes_logits_to_keep = "logits_to_keep" in forward

    @property
    def max_gen_toks(self) -> int:
        """Longest answer in tokens, for tasks that name none."""
        return self.settings.max_gen_toks

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return the log-likelihood of each continuation, and whether greedy decoding would give it."""
        return self._answer_all("loglikelihood", requests, self._likelihood, disable_tqdm)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return an answer to each prompt, up to the first of its stop texts."""
        return self._answer_all("generate_until", requests, self._generate, disable_tqdm)

    def _answer_all(
        self, kind: str, requests: Sequence[Any], answer: Callable[[Any], Any], disable_tqdm: bool
    ) -> list[Any]:
        """Answer requests with soft tokens here, and all others by `HFLM`."""
        results: dict[int, Any] = {}
        for place, request in enumerate(tqdm(requests, desc=kind, disable=disable_tqdm, leave=False)):
            with _naming(request):
                result = answer(request)
            if result is not None:
                results[place] = result
                self.cache_hook.add_partial(kind, request.args, result)
        others = [place for place in range(len(requests)) if place not in results]
        if others:
            plain = getattr(super(), kind)([requests[place] for place in others], disable_tqdm=disable_tqdm)
            results |= dict(zip(others, plain, strict=True))
        return [results[place] for place in range(len(requests))]

    def _likelihood(self, request: Any) -> tuple[float, bool] | None:
        """Score a continuation after soft tokens; None for a prompt that stays raw text."""
        prompt, continuation = request.args
        encode = self.layout.encoder.encode
        room = self.max_length + 1 - len(encode(continuation))
        while True:  # after other text the continuation may take more tokens
            laid = self.layout.lay_out(prompt, request.doc, room)
            text = laid.tail.rstrip()  # white space at the end belongs to the continuation, as in lm_eval
            before = encode(text, at_start=not laid.head)
            scored = encode(laid.tail + continuation, at_start=not laid.head)[len(before) :]
            before = [*laid.head, *before]
            excess = len(before) + len(scored) - (self.max_length + 1)
            if excess <= 0 or laid.soft_tokens is None:
                break
            room -= excess
        self._count(laid, len(before), self.max_length + 1 - len(scored))
        if laid.way == "raw":
            return None
        if not scored:
            return 0.0, True
        return self._score([*before, *scored], len(scored), laid.soft_tokens)

    @torch.no_grad()
    def _score(self, ids: list[int], num_scored: int, soft_tokens: torch.Tensor | None) -> tuple[float, bool]:
        """Score the last ids of an input; the last one is not read, so the input may exceed the window by it.

        As the placeholder is never generated, it does not count as a greedy choice.
        """
        device = self.engine.device
        inputs = {"input_ids": torch.tensor([ids[:-1]], device=device)}
        if soft_tokens is not None:
            inputs["chunk_embeds"] = soft_tokens.to(device)
        options = {"logits_to_keep": num_scored} if self._takes_logits_to_keep else {}
        logits = self.engine.model(**inputs, use_cache=False, **options).logits[0, -num_scored:].float()
        targets = torch.tensor(ids[-num_scored:], device=device)
        total = logits.log_softmax(dim=-1).gather(1, targets[:, None]).double().sum().item()
        logits[:, self.engine.processor.chunk_token_id] = -torch.inf
        return total, bool((logits.argmax(dim=-1) == targets).all())

    def _count(self, laid: LaidPrompt, length: int, room: int) -> None:
        """Check that a prompt of a length fits, or may be cut off, and count what happened to it."""
        if room < 1:
            raise ContextOverflowError(
                f"the answer takes {self.max_length - room} of {self.max_length} positions and leaves none "
                "for the prompt; lower max_gen_toks, or raise max_length"
            )
        excess = length - room
        if excess > 0 and (self.settings.overflow == "error" or laid.way != "raw"):
            raise ContextOverflowError(
                f"the prompt is {excess} tokens too long for {room} positions; use overflow=compress or "
                "truncate"
            )
        self.counts["prompts"] += 1
        self.counts["cut off" if excess > 0 else laid.way] += 1
        self.counts["chunks left out"] += laid.num_left_out
        self.counts["context tokens"] += laid.num_context_tokens
        self.counts["context positions"] += laid.num_context_positions

    def _generate(self, request: Any) -> str | None:
        """Answer a prompt after soft tokens; None for a prompt that stays raw text."""
        from lm_eval.models.utils import (
            handle_stop_sequences,
            normalize_gen_kwargs,
            postprocess_generated_text,
        )
        from lm_eval.models.utils_hf import stop_sequences_criteria

        prompt, wanted = request.args
        options = dict(normalize_gen_kwargs(wanted, self.settings.max_gen_toks))
        stops = handle_stop_sequences(options.pop("until", None), eos=self.tokenizer.eos_token)
        max_new_tokens = options.pop("max_gen_toks")
        options.pop("max_length", None)
        if options.get("temperature", 1.0) == 0 or not options["do_sample"]:
            options = {name: value for name, value in options.items() if name not in _SAMPLING}
            options["do_sample"] = False
        room = self.max_length - max_new_tokens
        laid = self.layout.lay_out(prompt, request.doc, max(1, room))
        ids = [*laid.head, *self.layout.encoder.encode(laid.tail, at_start=not laid.head)]
        self._count(laid, len(ids), room)
        if laid.way == "raw":
            return None
        new = generate_ids(
            self.engine.model,
            ids,
            laid.soft_tokens,
            max_new_tokens=max_new_tokens,
            stopping_criteria=stop_sequences_criteria(self.tokenizer, stops, len(ids), 1),
            **options,
        )
        text = self.tokenizer.decode(new, skip_special_tokens=True)
        return str(postprocess_generated_text(text, stops, None))

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Render a conversation, and keep its opening raw whatever of it becomes context."""
        prompt: str = super().apply_chat_template(chat_history, add_generation_prompt)  # type: ignore[misc]
        first = next((turn["content"] for turn in chat_history if turn["role"] == "user"), "")
        self.layout.opening = prompt[: max(0, prompt.find(first.strip()))]
        return prompt

    def get_model_info(self) -> dict[str, Any]:
        """Return what lm_eval writes beside the scores: model, settings, and what happened to the prompts."""
        settings = self.settings.model_dump()
        return {
            "model_num_parameters": sum(weight.numel() for weight in self.engine.model.parameters()),
            "model_dtype": str(self.engine.model.get_input_embeddings().weight.dtype),
            "e2llm_version": __version__,
            "e2llm_device": str(self.engine.device),  # lm_eval writes the requested one
            "e2llm_settings": {**settings, "context_field": "+".join(self.settings.context_field)},
            "e2llm_prompts": dict(self.counts),
        }


@contextmanager
def _naming(request: Any) -> Iterator[None]:
    """Put the task and the document of a request before an error."""
    try:
        yield
    except E2LLMError as error:
        place = f"{request.task_name or 'request'}, document {request.doc_id}"
        raise type(error)(f"{place}: {error}") from error


def open_engine(pretrained: str | Engine, device: str | None, options: dict[str, Any]) -> Engine:
    """Return the engine of a model, or the given engine.

    Raises:
        E2LLMError: If it cannot be loaded, or an engine is given with further options.
    """
    if isinstance(pretrained, Engine):
        if options or device is not None:
            raise E2LLMError(
                "device, dtype, revision, encoder and decoder have no effect on an Engine; pass a name, or "
                "leave them out"
            )
        return pretrained
    if str(device).startswith("cuda") and not torch.cuda.is_available():
        _log.warning("device %s is unavailable; using the CPU", device)
        device = "cpu"
    return Engine.from_pretrained(pretrained, device=device, **options)
