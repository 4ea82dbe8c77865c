"""Tools for decoders that can call them: look at chunks of the context before answering.

The decoder's chat template tells it of the tools. A call ends its turn; what the tool returns is the next
turn. Formats of a call: JSON between `<tool_call>` marks (Qwen, Hermes) or alone (Llama 3).
"""

import re
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field

from e2llm.errors import E2LLMError
from e2llm.inference.content import Content
from e2llm.inference.planning import best_first
from e2llm.validation import CheckedModel

MOST_FOUND = 5
_EXCERPT_CHARS = 160
_CALL = re.compile(
    r"\s*(?:<tool_call>\s*(?P<marked>\{.*?\})\s*</tool_call>.*|(?P<bare>\{.*\}))\s*", re.DOTALL
)


def _tool(name: str, description: str, argument: str, kind: str, meaning: str) -> dict[str, Any]:
    properties = {argument: {"type": kind, "description": meaning}}
    parameters = {"type": "object", "properties": properties, "required": [argument]}
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": parameters},
    }


TOOLS = [
    _tool(
        "search",
        "Find the chunks of the context that share words with a text.",
        "words",
        "string",
        "What to look for.",
    ),
    _tool("expand", "Return the whole text of a chunk.", "chunk", "integer", "The chunk's number."),
]


class ToolCall(CheckedModel, extra="ignore"):
    """A call as the decoder wrote it."""

    name: Literal["search", "expand"]
    arguments: Annotated[dict[str, Any], Field(validation_alias=AliasChoices("arguments", "parameters"))]


def parse_call(text: str) -> ToolCall | None:
    """Return the tool call that an answer is, or None if it is an ordinary answer."""
    match = _CALL.fullmatch(text)
    if match is None:
        return None
    try:
        return ToolCall.read_json(match["marked"] or match["bare"])
    except E2LLMError:
        return None


def run_call(call: ToolCall, content: Content) -> str:
    """Return what a tool says to the decoder; a wrong argument is told instead of raised."""
    if call.name == "search":
        return _search(str(call.arguments.get("words", "")), content)
    chunk = call.arguments.get("chunk")
    if type(chunk) is not int or not 0 <= chunk < len(content.chunks):
        return f"There is no chunk {chunk}; chunks are 0 to {len(content.chunks) - 1}."
    return f"Chunk {chunk}: {content.chunks[chunk].text.strip()}"


def _search(words: str, content: Content) -> str:
    scores = content.bm25.scores(words)
    found = [chunk for chunk in best_first(scores)[:MOST_FOUND] if scores[chunk] > 0]
    lines = [f"Chunk {chunk}: {content.chunks[chunk].text.strip()[:_EXCERPT_CHARS]}" for chunk in found]
    return "\n".join(lines) or f"No chunk shares a word with {words!r}."
