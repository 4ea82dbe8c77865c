"""The wording of both objectives, and the order of context, instruction and answer in the decoder's input.

The order is the paper's: `[prompt] c_1 ... c_N [query]`. Text of users is encoded as plain characters, so
that nothing in it becomes a control token.
"""

import contextlib
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from string import ascii_uppercase
from typing import Any

from e2llm.errors import E2LLMError, E2LLMWarning
from e2llm.surrogates import reject_lone_surrogates

IGNORE_INDEX = -100  # the label of a position that predicts nothing, as in torch

UNDERSTANDING_PROMPT = "Restate the context."
CONTINUE_PROMPT = "Continue the context."
SUMMARY_PROMPT = "Summarize the context."
OPTION_LETTERS = ascii_uppercase  # of a multiple-choice question

_CONTEXT_MARK = "\u2402CONTEXT\u2403"
_PROMPT_MARK = "\u2402PROMPT\u2403"
_NEXT_MARK = "\u2402NEXT\u2403"
_ANSWER_MARK = "\u2402ANSWER\u2403"
_MARKUP = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")
NO_END = "the decoder has no end token, so every answer runs to its longest length"
PLAIN_TEMPLATE = f"Context: {_CONTEXT_MARK}\nQuestion: {_PROMPT_MARK}\nAnswer:"


@dataclass(frozen=True)
class PromptTemplate:
    """Token ids around the three texts.

    Attributes:
        before_context: Ids before the soft tokens.
        before_prompt: Ids between the soft tokens and the instruction.
        before_answer: Ids between the instruction and the answer.
        after_answer: Ids that end the answer.
        between_turns: Ids between an answer and the next instruction of a conversation; None if the chat
            template takes one turn only.
        answer_prefix: Text before the instruction and the answer, so that their first word is an
            ordinary word for the tokenizer.
    """

    before_context: list[int]
    before_prompt: list[int]
    before_answer: list[int]
    after_answer: list[int]
    answer_prefix: str
    between_turns: list[int] | None = None


def word_options(question: str, options: Sequence[str]) -> str:
    """Return the prompt of a multiple-choice question: question, lettered options, and how to answer.

    The wording is chosen here (docs/fidelity.md); scores on it are not those of a benchmark's own prompt.

    Args:
        question: The question.
        options: Texts of the choices, 2 to 26.

    Raises:
        E2LLMError: If there are fewer or more options.
    """
    if not 2 <= len(options) <= len(OPTION_LETTERS):
        raise E2LLMError(
            f"a multiple-choice question must have 2 to {len(OPTION_LETTERS)} options, got {len(options)}"
        )
    return "\n".join([question, *option_lines(options), "Answer with the letter of the right option."])


def option_lines(options: Sequence[str]) -> list[str]:
    """Return each option after its letter, as `A. text`; options beyond the last letter are left out."""
    return [f"{letter}. {option}" for letter, option in zip(OPTION_LETTERS, options, strict=False)]


def encode_text(tokenizer: Any, text: str) -> list[int]:
    """Encode a user's text, in which nothing becomes a control token.

    Special tokens are split by the tokenizer itself. Where a control token comes out all the same (one that
    is added but not marked special, such as `</think>` in Qwen3, or a piece of a Unigram vocabulary), the
    text is encoded in pieces that break it.

    Raises:
        E2LLMError: If `text` is no string, or holds a lone surrogate.
    """
    return encode_texts(tokenizer, [text])[0]


def encode_texts(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Encode several texts, each as `encode_text` does, which is quicker than one by one."""
    for text in texts:
        if not isinstance(text, str):
            raise E2LLMError(f"the text must be a string, got {type(text).__name__}")
        reject_lone_surrogates(text)

    def encode(pieces: list[str]) -> list[list[int]]:
        options = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
        return [list(ids) for ids in tokenizer(pieces, **options).input_ids] if pieces else []

    rows = encode(list(texts))
    pattern, control_ids = _control_tokens(tokenizer, len(tokenizer))
    for place, (text, ids) in enumerate(zip(texts, rows, strict=True)):
        if pattern is None or control_ids.isdisjoint(ids) or not pattern.search(text):
            continue
        cuts = [0, *(match.start() + 1 for match in pattern.finditer(text)), len(text)]
        pieces = encode([text[start:end] for start, end in pairwise(cuts)])
        rows[place] = [token for piece in pieces for token in piece]
    return rows


@lru_cache(maxsize=16)
def _control_tokens(tokenizer: Any, size: int) -> tuple[re.Pattern[str] | None, frozenset[int]]:
    """Return a pattern of control tokens in text, and their ids; `size` changes when tokens are added."""
    tokens = {
        token.content: index
        for index, token in tokenizer.added_tokens_decoder.items()
        if token.special or _MARKUP.fullmatch(token.content)
    }
    pattern = "|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True) if token)
    return (re.compile(pattern) if pattern else None), frozenset(tokens.values())


def build_template(tokenizer: Any, tools: Sequence[dict[str, Any]] = ()) -> PromptTemplate:
    """Lay out the decoder's input: by the tokenizer's chat template, else by `PLAIN_TEMPLATE`.

    Args:
        tokenizer: The decoder's.
        tools: JSON schemas of functions that the decoder is told of.

    Raises:
        E2LLMError: If the chat template fails, does not show the texts exactly once, or does not show tools.

    Warns:
        E2LLMWarning: If nothing ends an answer.
    """
    if getattr(tokenizer, "chat_template", None):
        template = _chat_template(tokenizer, tools)
    else:
        template = _plain_template(tokenizer)
    if tools and template == build_template(tokenizer):
        raise E2LLMError("the decoder's chat template has no place for tools; leave tool_calls out")
    if not template.after_answer:
        advice = "give its tokenizer an eos_token or a chat template"
        warnings.warn(f"{NO_END}; {advice}", E2LLMWarning, stacklevel=2)
    return template


def _plain_template(tokenizer: Any) -> PromptTemplate:
    """Encode the pieces of `PLAIN_TEMPLATE`."""
    before, rest = PLAIN_TEMPLATE.split(_CONTEXT_MARK)
    middle, after = rest.split(_PROMPT_MARK)
    first = tokenizer("a").input_ids[:1]
    begins = first if tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id] else []
    end = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    return PromptTemplate(
        before_context=[*begins, *encode_text(tokenizer, before.rstrip(" "))],
        before_prompt=encode_text(tokenizer, middle.rstrip(" ")),
        before_answer=encode_text(tokenizer, after),
        after_answer=end,
        answer_prefix=" ",
        between_turns=[*end, *encode_text(tokenizer, middle.rstrip(" "))],
    )


def _chat_template(tokenizer: Any, tools: Sequence[dict[str, Any]] = ()) -> PromptTemplate:
    """Render the tokenizer's own template around marks, and cut it there."""
    from jinja2 import TemplateError  # comes with torch; not needed to import this module

    user = {"role": "user", "content": f"{_CONTEXT_MARK}\n\n{_PROMPT_MARK}"}
    options: dict[str, Any] = {"tokenize": False, "enable_thinking": False, "tools": list(tools) or None}
    answer = {"role": "assistant", "content": _ANSWER_MARK}
    try:
        opened = tokenizer.apply_chat_template([user], add_generation_prompt=True, **options)
        closed = tokenizer.apply_chat_template([user, answer], **options)
        before, rest = opened.split(_CONTEXT_MARK)
        middle, after = rest.split(_PROMPT_MARK)
        _, end = closed.split(_ANSWER_MARK)
    except (TemplateError, ValueError, TypeError, KeyError) as error:
        raise E2LLMError(
            f"the decoder's chat template cannot be used ({error}); give the tokenizer another one, "
            "or chat_template=None for a plain layout"
        ) from error
    end = end.rstrip("\n")

    def encode(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False).input_ids)

    end_ids = encode(end) or ([tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else [])
    between = None
    with contextlib.suppress(TemplateError, ValueError, TypeError, KeyError):
        next_user = {"role": "user", "content": _NEXT_MARK}
        both = tokenizer.apply_chat_template([user, answer, next_user], add_generation_prompt=True, **options)
        between_text, rest = both.split(_ANSWER_MARK)[1].split(_NEXT_MARK)
        between = encode(between_text) if rest == after else None
    return PromptTemplate(encode(before), encode(middle), encode(after), end_ids, "", between)
