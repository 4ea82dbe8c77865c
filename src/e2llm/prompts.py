"""The wording of both objectives, and where context, instruction and answer stand in the decoder's input.

The order is the paper's: `[prompt] c_1 ... c_N [query]`. Text that users bring is encoded as plain characters, so
that nothing in it becomes a control token.
"""

from dataclasses import dataclass
from typing import Any

UNDERSTANDING_PROMPT = "Restate the context."
SUMMARY_PROMPT = "Summarize the context."

_CONTEXT_MARK = "\u2402CONTEXT\u2403"
_PROMPT_MARK = "\u2402PROMPT\u2403"
_ANSWER_MARK = "\u2402ANSWER\u2403"
PLAIN_TEMPLATE = f"Context: {_CONTEXT_MARK}\nQuestion: {_PROMPT_MARK}\nAnswer:"


@dataclass(frozen=True)
class PromptTemplate:
    """Token ids around the three texts.

    Attributes:
        before_context: Ids ahead of the soft tokens.
        before_prompt: Ids between the soft tokens and the instruction.
        before_answer: Ids between the instruction and the answer.
        after_answer: Ids that end the answer.
        answer_prefix: Text put in front of the answer so that its first word is an ordinary word for the tokenizer.
    """

    before_context: list[int]
    before_prompt: list[int]
    before_answer: list[int]
    after_answer: list[int]
    answer_prefix: str


def encode_text(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a user's text: control-like text stays text."""
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
    return list(ids)


def build_template(tokenizer: Any) -> PromptTemplate:
    """Lay out the decoder's input: by the tokenizer's chat template if it has one, else by `PLAIN_TEMPLATE`."""
    if getattr(tokenizer, "chat_template", None):
        return _chat_template(tokenizer)
    before, rest = PLAIN_TEMPLATE.split(_CONTEXT_MARK)
    middle, after = rest.split(_PROMPT_MARK)
    start = tokenizer("a").input_ids[:1]
    begins = start if tokenizer.bos_token_id is not None and start == [tokenizer.bos_token_id] else []
    end = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    return PromptTemplate(
        before_context=[*begins, *encode_text(tokenizer, before.rstrip(" "))],
        before_prompt=encode_text(tokenizer, middle.rstrip(" ")),
        before_answer=encode_text(tokenizer, after),
        after_answer=end,
        answer_prefix=" ",
    )


def _chat_template(tokenizer: Any) -> PromptTemplate:
    """Render the tokenizer's own template around marks, and cut it there."""
    user = {"role": "user", "content": f"{_CONTEXT_MARK}\n\n{_PROMPT_MARK}"}
    options: dict[str, Any] = {"tokenize": False, "enable_thinking": False}
    opened = tokenizer.apply_chat_template([user], add_generation_prompt=True, **options)
    before, rest = opened.split(_CONTEXT_MARK)
    middle, after = rest.split(_PROMPT_MARK)
    closed = tokenizer.apply_chat_template([user, {"role": "assistant", "content": _ANSWER_MARK}], **options)
    end = closed.split(_ANSWER_MARK)[-1].rstrip("\n")

    def encode(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False).input_ids)

    end_ids = encode(end) or ([tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else [])
    return PromptTemplate(encode(before), encode(middle), encode(after), end_ids, answer_prefix="")
