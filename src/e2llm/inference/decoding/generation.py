"""Run the decoder on an input: return whole answers, or yield pieces as they come."""

import inspect
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from typing import Any

import torch
from transformers import GenerationConfig, GenerationMixin, StoppingCriteriaList
from transformers.cache_utils import DynamicCache

from e2llm.errors import E2LLMError
from e2llm.inference.answer import Answer, Timing
from e2llm.inference.decoding.sources import measured_sources, measures_sources, ranked_sources
from e2llm.inference.decoding.streaming import FirstTokenClock, PieceStreamer, StopEvent
from e2llm.inference.layout import LaidOut, usage_of
from e2llm.inference.options import AskOptions, AskRequest, SamplingOptions
from e2llm.modeling.model import E2LLMForConditionalGeneration

_DRAWS = ("temperature", "top_p", "top_k", "min_p", "typical_p")  # without effect on greedy answers
_SIGNATURE = inspect.signature(GenerationMixin.generate).parameters.keys() - {"self", "inputs", "kwargs"}
_KNOWN = {*GenerationConfig().to_dict(), *_SIGNATURE, "tokenizer"} - {"max_new_tokens", "max_length"}
_OURS = {"max_new_tokens", "do_sample", "streamer", "stopping_criteria"}
_ADVICE = {
    "seed": "call torch.manual_seed before asking",
    "stop": "give stop_strings=[...] with tokenizer=engine.processor.tokenizer",
}
_CLOSE = 0.8  # similarity of names from which an unknown one is taken for a misspelling, 0 to 1


def check_options(
    model: E2LLMForConditionalGeneration, options: dict[str, Any], *, wants_pieces: bool
) -> None:
    """Refuse arguments of `generate` that are unknown, out of range, or would be ignored.

    Raises:
        E2LLMError: Names the option and what is allowed; also for several return sequences, a dictionary, or
            pieces of a beam search.
    """
    for name in options.keys() - _KNOWN:
        allowed = [*AskOptions.model_fields, "history", "on_piece"]
        near = get_close_matches(name, [*allowed, *_KNOWN], n=1, cutoff=_CLOSE)
        advice = _ADVICE.get(name) or (f"did you mean {near[0]}?" if near else "")
        raise E2LLMError(
            f"there is no option {name!r}; {advice}{'; ' if advice else ''}choose from: "
            f"{', '.join(allowed)}, and the arguments of transformers' generate"
        )
    drawn = {name: options[name] for name in _DRAWS if options.get(name) is not None}
    SamplingOptions.read({name: drawn[name] for name in SamplingOptions.model_fields if name in drawn})
    if "generation_config" not in options and not draws_tokens(options):
        idle = [name for name in drawn if name != "temperature" or drawn[name]]
        if idle:
            raise E2LLMError(
                f"{idle[0]}={drawn[idle[0]]} has no effect on a greedy answer; add do_sample=True or a "
                "temperature above 0, or leave it out"
            )
    for name, value in options.items():
        if isinstance(value, float) and math.isnan(value):
            raise E2LLMError(f"{name}=nan is not a number; give one, or leave it out")
    settings = options.get("generation_config") or model.generation_config
    for name, most in (("num_return_sequences", 1), ("return_dict_in_generate", 0)):
        value = options.get(name, getattr(settings, name, None))
        if value is not None and int(value) > most:
            raise E2LLMError(f"{name}={value}: the engine returns one answer; use model.generate for more")
    if wants_pieces and options.get("streamer") is not None:
        raise E2LLMError("streamer= does not work with streaming; leave it out")
    if (wants_pieces or options.get("streamer") is not None) and searches_beams(model, options):
        raise E2LLMError(
            "beam search cannot be streamed, because it knows its answer only at the end; use num_beams=1"
        )


def draws_tokens(options: dict[str, Any]) -> bool:
    """Return whether options ask for sampling: a temperature above 0 does, and 0 or nothing does not."""
    temperature = options.get("temperature")
    return bool(options.get("do_sample", temperature)) and temperature != 0


def searches_beams(model: E2LLMForConditionalGeneration, options: dict[str, Any]) -> bool:
    """Return whether the options, or the model's defaults, ask for beam search."""
    settings = options.get("generation_config") or model.generation_config
    return int(options.get("num_beams") or getattr(settings, "num_beams", None) or 1) > 1


def generate_ids(
    model: E2LLMForConditionalGeneration,
    input_ids: list[int],
    soft_tokens: torch.Tensor | None,
    *,
    cache: DynamicCache | None = None,
    **options: Any,
) -> list[int]:
    """Generate the answer, and return its ids without the prompt.

    Args:
        model: In evaluation mode.
        input_ids: Decoder ids with placeholders.
        soft_tokens: `[R, D]` of the chunks that the placeholders stand for; None without chunks.
        cache: Takes the keys and values of input and answer.
        options: For transformers' `generate`; greedy unless they say otherwise.

    Raises:
        E2LLMError: If transformers refuses an option.
    """
    device = model.get_input_embeddings().weight.device
    ids = torch.tensor([input_ids], device=device)
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if soft_tokens is not None:
        inputs["chunk_embeds"] = soft_tokens.to(device)
    if cache is not None:
        inputs["past_key_values"] = cache
    if options.get("generation_config") is None:
        options["do_sample"] = draws_tokens(options)
        if options.get("temperature") == 0:
            del options["temperature"]
    try:
        output = model.generate(**inputs, **options)
    except (ValueError, TypeError) as error:
        if isinstance(error, E2LLMError) or not options.keys() - _OURS:
            raise
        given = ", ".join(sorted(options.keys() - _OURS))
        raise E2LLMError(f"transformers refuses {given}: {' '.join(str(error).split())}") from error
    return list(output[0, ids.shape[1] :].tolist())


def generate_answer(
    laid: LaidOut,
    decode: Callable[[list[int]], str],
    on_piece: Callable[[str], Any] | None,
    started: float,
    read_seconds: float,
    request: AskRequest,
    **options: Any,
) -> Answer:
    """Generate an answer, and find its sources and cost.

    Args:
        laid: What the decoder gets.
        decode: From ids to text.
        on_piece: Called with each piece of the answer as it comes; None for no streaming.
        started: When the question was asked, by `time.perf_counter`.
        read_seconds: Time that reading the context took.
        request: Says how long the answer may be, and how to find its sources.
        options: See `generate_ids`.

    Raises:
        E2LLMError: If `check_options` refuses an option, or the decoder does not allow measuring sources.
    """
    check_options(laid.model, options, wants_pieces=on_piece is not None)
    measures = measures_sources(laid.model, request.sources)
    if on_piece is not None:
        options["streamer"] = PieceStreamer(decode, on_piece)
    clock = FirstTokenClock(options.get("streamer"))
    cache = None
    if not searches_beams(laid.model, options):
        options["streamer"] = clock
        if measures and "past_key_values" not in options:
            cache = DynamicCache(config=laid.model.config.text_config)
    options["max_new_tokens"] = request.max_new_tokens
    ids = generate_ids(laid.model, laid.sample.input_ids, laid.soft_tokens, cache=cache, **options)
    text = decode(ids)
    first = None if clock.first_token_at is None else clock.first_token_at - started
    ended = time.perf_counter()
    sources, cited = measured_sources(laid, ids, decode, cache) if measures else (ranked_sources(laid), text)
    expanded = [laid.content.chunks[index] for index in laid.plan.expand]
    return Answer(
        text=text,
        usage=usage_of(laid, len(ids)),
        timing=Timing(read_seconds, first, ended - started, time.perf_counter() - ended if measures else 0.0),
        expanded=[(chunk.start, chunk.end) for chunk in expanded],
        expanded_chunks=list(laid.plan.expand),
        left_out=laid.plan.left_out,
        sources=sources,
        levels=laid.plan.levels_by_chunk,
        cited=cited,
    )


def generate_pieces(laid: LaidOut, decode: Callable[[list[int]], str], **options: Any) -> Iterator[str]:
    """Yield pieces of the answer as they come; closing the iterator stops the work at the next token.

    Args:
        laid: What the decoder gets.
        decode: From ids to text.
        options: See `generate_ids`.
    """
    pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    stop = StopEvent()
    failure: list[BaseException] = []
    criteria = StoppingCriteriaList([*(options.pop("stopping_criteria", None) or []), stop])
    options |= {"streamer": PieceStreamer(decode, pieces.put), "stopping_criteria": criteria}

    def work() -> None:
        try:
            generate_ids(laid.model, laid.sample.input_ids, laid.soft_tokens, **options)
        except BaseException as error:
            failure.append(error)
        finally:
            pieces.put(None)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (piece := pieces.get()) is not None:
            yield piece
    finally:
        stop.event.set()
        thread.join()
    if failure:
        raise failure[0]
