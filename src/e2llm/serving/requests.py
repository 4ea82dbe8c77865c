"""Requests for answers: which of OpenAI's fields this server obeys, and the text of messages.

Descriptions that begin with "e2llm:" are of fields that OpenAI's API does not have.
"""

import json
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from e2llm.errors import E2LLMError
from e2llm.inference.options import AskOptions, LayoutOptions, SamplingOptions
from e2llm.serving.http.api_error import ApiError
from e2llm.serving.schemas import ContextId, Count, Documents, Sent

_INT64 = 2**63 - 1
_EMPTY: tuple[Any, ...] = (None, False, "", [], {})
_CLOSE = 0.8  # similarity of names from which an unknown one is taken for a misspelling, 0 to 1

Penalty = Annotated[float, Field(ge=-2, le=2)]


# --- OpenAI's fields ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RequestField:
    """A field of OpenAI's requests, or one that other servers added, and what this server does with it.

    Attributes:
        name: As in the JSON.
        use: `taken`: obeyed. `ignored`: obeying it would not change the answer. `refused`: obeying it would
            change the answer, and this server cannot.
        neutral: Values that ask for nothing; with one of them, the field counts as absent.
        advice: What to do instead of sending a refused field.
        switch: A field that turns this one off by the value `none`.
    """

    name: str
    use: Literal["taken", "ignored", "refused"]
    neutral: tuple[Any, ...] = (None,)
    advice: str = ""
    switch: str = ""

    @property
    def schema(self) -> dict[str, Any]:
        """Its OpenAPI schema, if it is not taken."""
        if self.use == "ignored":
            return {"description": "Accepted and ignored."}
        return {"description": f"Any other value is refused: {self.advice}.", "enum": list(self.neutral)}


def _taken(names: str) -> list[RequestField]:
    return [RequestField(name, "taken") for name in names.split()]


def _ignored(names: str) -> list[RequestField]:
    return [RequestField(name, "ignored") for name in names.split()]


def _refused(name: str, advice: str, *more_neutral: Any, switch: str = "") -> RequestField:
    return RequestField(name, "refused", (*_EMPTY, *more_neutral), advice, switch)


_NO_TOOLS = "this server calls no tools; turn them off in the client"
_NO_LOGPROBS = "this server returns no probabilities; leave it out"
_NO_SUCH_SAMPLING = "this server samples by temperature and top_p alone; leave it out"

REQUEST_FIELDS = (
    *_taken("model messages prompt max_tokens max_completion_tokens temperature top_p n seed"),
    RequestField("stop", "taken", (None, "")),
    *_taken("presence_penalty frequency_penalty stream stream_options"),
    *_ignored("user metadata store service_tier safety_identifier parallel_tool_calls prediction"),
    *_ignored("prompt_cache_key prompt_cache_options prompt_cache_retention"),
    _refused("tools", _NO_TOOLS, switch="tool_choice"),
    _refused("tool_choice", _NO_TOOLS, "none", "auto"),
    _refused("functions", _NO_TOOLS, switch="function_call"),
    _refused("function_call", _NO_TOOLS, "none", "auto"),
    _refused("response_format", "answers are plain text; ask for JSON in the message", {"type": "text"}),
    _refused("logprobs", _NO_LOGPROBS),
    _refused("top_logprobs", _NO_LOGPROBS, 0),
    _refused("logit_bias", "this server changes no probabilities of single tokens; leave it out"),
    _refused("modalities", "answers are text; ask for text", ["text"]),
    _refused("audio", "answers are text; leave it out"),
    _refused("reasoning_effort", "the model does not reason before its answer; leave it out", "none"),
    _refused("verbosity", "ask for a short or long answer in the message", "medium"),
    _refused("moderation", "this server moderates nothing; leave it out"),
    RequestField(  # an empty object asks for a search
        "web_search_options", "refused", (None, False), "this server searches nothing; give documents"
    ),
    _refused("best_of", "this server ranks no answers; use n", 1),
    _refused("echo", "answers do not repeat the prompt; add it to them in the client"),
    _refused("suffix", "this server continues texts and fills no gaps; leave it out"),
    # Of other servers:
    _refused("top_k", _NO_SUCH_SAMPLING, 0, -1),
    _refused("min_p", _NO_SUCH_SAMPLING, 0),
    _refused("repetition_penalty", "use frequency_penalty or presence_penalty", 1),
)
_BY_NAME = {field.name: field for field in REQUEST_FIELDS}


def _is_one_of(value: Any, neutral: tuple[Any, ...]) -> bool:
    """Compare as JSON does, where true is not 1."""
    return any(isinstance(value, bool) == isinstance(item, bool) and value == item for item in neutral)


def _obeyed(values: dict[str, Any], known: set[str]) -> dict[str, Any]:
    """Return the fields of a request without those that ask for nothing, or are ignored.

    Args:
        values: The request.
        known: Fields of this kind of request. Others stay, unless a name looks like a misspelling.

    Raises:
        ApiError: For a refused field.
    """
    kept = {}
    for name, value in values.items():
        field = _BY_NAME.get(name)
        if name == "logit_bias" and isinstance(value, dict):
            value = {token: bias for token, bias in value.items() if bias != 0}
        if _is_one_of(value, field.neutral if field else (None,) if name in known else _EMPTY):
            continue
        if name not in known and field is not None and field.use == "taken":
            raise ApiError(400, f"this address takes no {name}; leave it out", param=name)
        if field is not None and field.use == "refused":
            if field.switch and values.get(field.switch) == "none":
                continue
            message = f"{name} is not supported: {field.advice}"
            raise ApiError(400, message, code="unsupported_parameter", param=name)
        if field is None and name not in known:
            for close in get_close_matches(name[:80], [*known, *_BY_NAME], n=1, cutoff=_CLOSE):
                message = f"{name[:80]} is unknown; rename it to {close}, or leave it out"
                raise ApiError(400, message, param=name[:80])
        if field is None or field.use == "taken":
            kept[name] = value
    return kept


# --- messages -----------------------------------------------------------------------------------------------

_TEXT_PARTS = ("text", "input_text", "output_text")
_UNHEARD_PARTS = ("thinking", "reasoning", "redacted_thinking")  # led to an answer, and are no part of it
_CONTENT_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
                "required": ["type", "text"],
            },
        },
        {"type": "null"},
    ],
    "description": "A text, or parts of type `text`, which become paragraphs.",
}


def _text_of_part(part: Any, place: int) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise E2LLMError(f"part {place} must be a text or an object; send type and text")
    kind = part.get("type", "text")
    if kind in _UNHEARD_PARTS:
        return ""
    if kind not in (*_TEXT_PARTS, "refusal"):
        raise E2LLMError(
            f"part {place} is of type {str(kind)[:40]!r}, but this server reads only text; send its text, or "
            "a file to /v1/contexts"
        )
    text = part.get("refusal" if kind == "refusal" else "text")
    if not isinstance(text, str | None):
        raise E2LLMError(f"part {place}: text must be a string")
    return text or ""


def _text_of_content(content: Any) -> Any:
    if not isinstance(content, list):
        return "" if content is None else content
    texts = [_text_of_part(part, place) for place, part in enumerate(content)]
    return "\n\n".join(text for text in texts if text)


def name_of_call(call: dict[str, Any]) -> str:
    """Return the name of the called tool, or an empty text if the call has none."""
    inner = call.get("function") or call.get("custom")
    return str(inner.get("name") or "") if isinstance(inner, dict) else ""


def _text_of_call(call: dict[str, Any]) -> str:
    if not (name := name_of_call(call)):
        return f"[call: {json.dumps(call, ensure_ascii=False)}]"
    inner = call.get("function") or call["custom"]
    given = inner.get("arguments", inner.get("input", ""))
    shown = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
    return f"[call of {name}: {shown}]"


class MessageIn(Sent):
    """A message of a conversation. Other keys only describe it, and are ignored."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Annotated[str, BeforeValidator(_text_of_content), WithJsonSchema(_CONTENT_SCHEMA)] = ""
    name: str | None = Field(None, description="The tool, in its results; else ignored.")
    refusal: str | None = Field(None, description="The text, if content is empty.")
    tool_calls: list[dict[str, Any]] = Field([], description="Shown to the model as text.")
    function_call: dict[str, Any] = Field({}, description="The same.")
    tool_call_id: str | None = Field(None, description="Finds the name of the tool.")

    @model_validator(mode="before")
    @classmethod
    def _without_media(cls, values: Any) -> Any:
        """Drop values that say nothing, and refuse what is heard or seen."""
        if not isinstance(values, dict):
            return values
        values = {name: value for name, value in values.items() if value or name in ("role", "content")}
        for name in ("images", "attachments", "files"):
            if name in values:
                raise E2LLMError(
                    f"{name} are not supported: this server reads only text; leave them out, or "
                    "send files to /v1/contexts"
                )
        audio = values.get("audio")
        if audio and not values.get("content"):
            transcript = audio.get("transcript") if isinstance(audio, dict) else None
            if not isinstance(transcript, str):
                raise E2LLMError("audio is not supported: this server reads only text; send a transcript")
            values["content"] = transcript
        return values

    @property
    def text(self) -> str:
        """Its text, with the calls of tools."""
        calls = [*self.tool_calls, *([{"function": self.function_call}] if self.function_call else [])]
        texts = [self.content or self.refusal or "", *map(_text_of_call, calls)]
        return "\n\n".join(text for text in texts if text)


# --- requests -----------------------------------------------------------------------------------------------


class StreamOptions(Sent):
    """How to stream."""

    model_config = ConfigDict(extra="ignore")

    include_usage: bool = Field(False, description="Send a last chunk with the usage.")


def _describe_fields(schema: dict[str, Any]) -> None:
    for name in LayoutOptions.model_fields:
        field = schema["properties"][name]
        field["description"] = f"e2llm: {field['description']}"
    for item in REQUEST_FIELDS:
        if item.use != "taken":
            schema["properties"][item.name] = item.schema


class AnswerIn(Sent, LayoutOptions, SamplingOptions):
    """Fields of both chats and completions. Unknown ones are ignored; the response names them."""

    model_config = ConfigDict(extra="allow", json_schema_extra=_describe_fields)

    model: str = Field(description="The name that /v1/models gives.")
    max_tokens: Count | None = Field(
        None, description="Longest answer; by default a quarter of the window, 256 at most."
    )
    n: Count = Field(1, description="Answers to each prompt.")
    seed: int | None = Field(None, ge=-_INT64, le=_INT64)
    stop: str | Annotated[list[str], Field(max_length=64, fail_fast=True)] = Field([])
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    stream: bool = False
    stream_options: StreamOptions | None = None

    min_tokens: int = Field(0, ge=0, description="e2llm: shortest answer.")
    context_ids: Annotated[list[ContextId], Field(max_length=64, fail_fast=True)] = Field(
        [], description="e2llm: contexts to answer from, in this order."
    )
    documents: Documents = Field(
        [], description="e2llm: texts to answer from; read for this request and not kept as a context."
    )
    sources: Literal["ranked", "measured"] | None = Field(
        None,
        description="e2llm: how to find the sources of an answer: `ranked`, by relevance; `measured`, by "
        "what its likelihood loses without each of the best chunks, which citations need. By default "
        "`ranked`, and `measured` with citations.",
    )
    citations: bool = Field(
        False,
        description="e2llm: add `[1]` and so on after each sentence of the answer that rests on a source; "
        "needs stream: false.",
    )
    return_expanded: bool = Field(
        False, description="e2llm: return the text of the chunks that were given as raw text."
    )

    @model_validator(mode="before")
    @classmethod
    def _only_what_is_obeyed(cls, values: Any) -> Any:
        return _obeyed(values, set(cls.model_fields)) if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _check_citations(self) -> "AnswerIn":
        if self.stream and self.citations:
            message = (
                "citations are for whole answers; set stream: false, or take e2llm.sources of the stream"
            )
            raise ApiError(400, message, param="citations")
        if self.sources == "ranked" and self.citations:
            message = "citations need sources: measured; leave sources out, or set it so"
            raise ApiError(400, message, param="sources")
        return self

    @property
    def ignored(self) -> list[str]:
        """Names of unknown fields."""
        return list(self.model_extra or {})


class ChatIn(AnswerIn):
    """A conversation to continue; what does not fit the window is compressed, `usage` says so."""

    messages: Annotated[list[MessageIn], Field(min_length=1, max_length=4096, fail_fast=True)]
    max_completion_tokens: Count | None = Field(None, description="The same as max_tokens.")
    refine: int = Field(0, ge=0, le=3, description=f"e2llm: {AskOptions.model_fields['refine'].description}")
    tool_calls: int = Field(
        0, ge=0, le=8, description=f"e2llm: {AskOptions.model_fields['tool_calls'].description}"
    )

    @model_validator(mode="after")
    def _check_rounds(self) -> "ChatIn":
        for name in ("refine", "tool_calls"):
            if getattr(self, name) and (self.stream or self.n > 1):
                message = f"{name} is for one whole answer; set stream: false and n: 1, or leave it out"
                raise ApiError(400, message, param=name)
        return self


class CompletionIn(AnswerIn):
    """A text to continue."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=64, fail_fast=True)]
