"""Answer in several rounds: after calls of tools, and again with finer sources."""

from collections.abc import Callable
from dataclasses import replace

from e2llm.inference.answer import Answer
from e2llm.inference.decoding.sources import coarse_sources
from e2llm.inference.decoding.tools import parse_call, run_call
from e2llm.inference.layout import LaidOut
from e2llm.inference.options import AskRequest

# Answers a request; with `tool_calls` the decoder is told of the tools.
AnswerOnce = Callable[[AskRequest], tuple[LaidOut, Answer]]


def call_tools(answer_once: AnswerOnce, request: AskRequest) -> tuple[AskRequest, LaidOut, Answer]:
    """Answer a question, and let the decoder call tools before.

    What a tool returns ranks the chunks of the next turn, so that those it found are given as text first.

    Args:
        answer_once: Answers a request.
        request: The question; its `tool_calls` is the most calls.

    Returns:
        The request with the turns of all calls before it, the decoder's input for it, and the answer.
    """
    num_calls = 0
    while True:
        laid, answer = answer_once(request)
        call = parse_call(answer.text) if request.tool_calls else None
        if call is None:
            return request, laid, replace(answer, usage=replace(answer.usage, tool_calls=num_calls))
        num_calls += 1
        turns = {
            "history": [*request.history, (request.question, answer.text)],
            "question": run_call(call, laid.content),
            "tool_calls": request.tool_calls - 1,
        }
        request = request.model_copy(update=turns)


def refine(answer_once: AnswerOnce, request: AskRequest, laid: LaidOut, answer: Answer) -> Answer:
    """Answer again, at most `request.refine` times, with the sources that were soft tokens given as text.

    Args:
        answer_once: Answers a request.
        request: What was answered.
        laid: The decoder's input for it.
        answer: The answer.
    """
    calls, num_refined = answer.usage.tool_calls, 0
    for _ in range(request.refine):
        coarse = coarse_sources(laid, answer.sources)
        if not coarse:
            break
        named = sorted([*answer.expanded_chunks, *coarse])
        request = request.model_copy(update={"expand": named, "overflow": "select"})
        num_refined += len(coarse)
        laid, answer = answer_once(request)
    return replace(answer, usage=replace(answer.usage, refined=num_refined, tool_calls=calls))
