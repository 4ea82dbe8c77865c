"""What is sent to the server and what it sends back: OpenAI's shapes; contexts are in `context_schemas`.

Fields that OpenAI's API does not have are told apart in their descriptions by "e2llm:".
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, StrictInt, StringConstraints
from pydantic_core import PydanticCustomError

from e2llm.chunking import CHUNKERS

_MAX_STOPS = 4
# No list may be long enough to keep the server busy with itself; what is allowed in the end is a setting.
_MAX_DOCUMENTS = 1000
_MAX_CONTEXTS = 64
_MAX_MESSAGES = 4096
_MAX_INDICES = 10_000
_INT64 = 2**63 - 1

Text = Annotated[str, StringConstraints(strict=True)]
Name = Annotated[str, StringConstraints(strict=True, min_length=1, max_length=200)]
ContextId = Annotated[str, StringConstraints(strict=True, pattern=r"^ctx_[0-9a-f]{24}$")]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]


def _known_kind(kind: str) -> str:
    if kind not in CHUNKERS:
        raise PydanticCustomError("unknown_kind", "give one of {kinds}", {"kinds": ", ".join(CHUNKERS)})
    return kind


def _list_kinds(schema: dict[str, Any]) -> None:
    schema["enum"] = [*CHUNKERS]  # asked when the description is made, so that later kinds are in it


Kind = Annotated[Text, AfterValidator(_known_kind), Field(json_schema_extra=_list_kinds)]


class Sent(BaseModel):
    """A part of a request: unknown fields are refused, none is passed over in silence."""

    model_config = ConfigDict(extra="forbid")


class DocumentIn(Sent):
    """A text with a name."""

    text: Text = Field(description="The whole text.")
    name: Name | None = Field(None, description="Shown beside its chunks; by default `text 1`, `text 2`, ...")
    kind: Kind | None = Field(None, description="How it is split; by default the model's own way.")


# --- answers ------------------------------------------------------------------------------------------------


Indices = Annotated[list[StrictInt], Field(max_length=_MAX_INDICES, fail_fast=True)]
RateIn = Annotated[StrictInt, Field(ge=1)] | Literal["one"]
RatesIn = Annotated[list[RateIn], Field(max_length=_MAX_INDICES, fail_fast=True)]
Documents = Annotated[list[Text | DocumentIn], Field(max_length=_MAX_DOCUMENTS, fail_fast=True)]


class AnswerIn(Sent):
    """What chats and completions have in common."""

    model: Text = Field(description="The name that /v1/models gives.")
    max_tokens: StrictInt | None = Field(None, ge=1, description="Longest answer; by default 256 at most.")
    temperature: Number | None = Field(
        None, ge=0, le=2, description="0, the default here, for the most likely answer."
    )
    top_p: Number | None = Field(None, gt=0, le=1)
    n: StrictInt | None = Field(None, ge=1, description="Answers to each prompt.")
    seed: StrictInt | None = Field(None, ge=-_INT64, le=_INT64)
    stop: Text | Annotated[list[Text], Field(max_length=_MAX_STOPS, fail_fast=True)] | None = None
    presence_penalty: Number | None = Field(None, ge=-2, le=2)
    frequency_penalty: Number | None = Field(None, ge=-2, le=2)
    stream: StrictBool | None = None
    stream_options: "StreamOptions | None" = None
    min_tokens: StrictInt | None = Field(None, ge=0, description="e2llm: shortest answer.")
    user: Text | None = Field(None, description="Taken and not used.")
    metadata: dict[Text, Text] | None = Field(None, description="Taken and not used.")

    context_ids: Annotated[list[ContextId], Field(max_length=_MAX_CONTEXTS, fail_fast=True)] | None = Field(
        None, description="e2llm: contexts to answer from, in this order."
    )
    documents: Documents | None = Field(
        None, description="e2llm: texts to answer from; read for this request and not kept as a context."
    )
    soft_tokens: StrictInt | None = Field(
        None, ge=1, description="e2llm: soft tokens per chunk; by default as many as the window takes."
    )
    rate: RateIn | RatesIn | None = Field(
        None,
        description="e2llm: encoder tokens per soft token, or `one` soft token per chunk; or a list with one "
        "for each chunk. For models with the pooling adapter; by default the model's, or a coarser one.",
    )
    expand: (
        Annotated[StrictInt, Field(ge=0)]
        | Annotated[list[StrictInt], Field(max_length=_MAX_INDICES, fail_fast=True)]
        | None
    ) = Field(
        None, description="e2llm: chunks given as raw text: a number, chosen by the question, or indices."
    )
    expand_tokens: StrictInt | None = Field(None, ge=0, description="e2llm: most tokens of chunks given raw.")
    select: Literal["bm25", "encoder"] | None = Field(None, description="e2llm: how chunks are chosen.")
    overflow: Literal["error", "select"] | None = Field(
        None, description="e2llm: if even soft tokens do not fit: an error, or the most relevant chunks."
    )
    return_expanded: StrictBool | None = Field(
        None, description="e2llm: give back the text of the chunks that were given raw."
    )


class StreamOptions(Sent):
    """How to stream."""

    include_usage: StrictBool | None = Field(None, description="Send a last chunk with the usage.")


class TextPart(Sent):
    """A piece of a message."""

    type: Literal["text"]
    text: Text


class MessageIn(Sent):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[TextPart], Field(max_length=1000, fail_fast=True)]
    name: Text | None = Field(None, description="Taken and not used.")

    @property
    def text(self) -> str:
        """Its text."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatIn(AnswerIn):
    """A conversation to go on with; what does not fit the window is compressed, `usage` says so."""

    messages: Annotated[list[MessageIn], Field(min_length=1, max_length=_MAX_MESSAGES, fail_fast=True)]
    max_completion_tokens: StrictInt | None = Field(None, ge=1, description="The same as max_tokens.")


class CompletionIn(AnswerIn):
    """A text to go on with."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=64, fail_fast=True)]


class PromptDetails(BaseModel):
    """More on the prompt."""

    cached_tokens: int = Field(description="Positions not read again: an earlier prompt began alike.")


class UsageOut(BaseModel):
    """What an answer took, in tokens and bytes."""

    prompt_tokens: int = Field(description="Positions of the decoder's window: raw and soft tokens.")
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails = PromptDetails(cached_tokens=0)
    original_tokens: int = Field(description="e2llm: what the prompt would take with all text given raw.")
    context_tokens: int = Field(description="e2llm: tokens of contexts, documents and compressed messages.")
    soft_tokens: int = Field(description="e2llm: positions that stand for text.")
    raw_tokens: int = Field(description="e2llm: positions that are text.")
    soft_tokens_per_chunk: int = Field(description="e2llm: the mean, rounded up, where chunks differ.")
    rate: int | str | None = Field(None, description="e2llm: the one rate of all chunks, if there is one.")
    note: str | None = Field(None, description="e2llm: what the user should know of this answer.")
    chunks: int
    chunks_left_out: int = Field(description="e2llm: chunks that the decoder did not get.")
    messages_compressed: int = Field(description="e2llm: messages that stand as soft tokens.")
    compression: float = Field(description="e2llm: context tokens per position that stands for them.")
    kv_cache_bytes: int = Field(description="e2llm: the decoder's cache for this prompt.")
    original_kv_cache_bytes: int = Field(description="e2llm: the same with all text given raw.")


class ExpandedChunk(BaseModel):
    """A chunk that the decoder got as text."""

    chunk: int = Field(description="Index among the chunks of all contexts and documents of the request.")
    context_id: str | None = Field(None, description="Its context, if it is kept in one.")
    context_chunk: int | None = Field(None, description="Its index there.")
    document: str
    start: int
    end: int
    text: str | None = Field(None, description="With return_expanded.")


class TimingOut(BaseModel):
    """Seconds."""

    read_seconds: float = Field(description="Reading what this request brought.")
    queue_seconds: float = Field(description="From the end of reading to the first step of decoding.")
    first_token_seconds: float | None = Field(description="From the request to its first token.")
    prompt_seconds: float | None = Field(description="Decoder's time over the prompt.")
    total_seconds: float


class Details(BaseModel):
    """What this server adds to an answer."""

    expanded: list[ExpandedChunk]
    timing: TimingOut | None = None


class ChatMessageOut(BaseModel):
    """The answer."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    """One of n answers."""

    index: int
    message: ChatMessageOut
    finish_reason: Literal["stop", "length"]
    logprobs: None = None


class ChatOut(BaseModel):
    """Answers to a conversation."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageOut
    e2llm: Details


class CompletionChoice(BaseModel):
    """One of n continuations."""

    index: int
    text: str
    finish_reason: Literal["stop", "length"] | None
    logprobs: None = None


class CompletionOut(BaseModel):
    """Continuations of texts."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: UsageOut
    e2llm: Details


class ModelDetails(BaseModel):
    """What a client may want to know of the model."""

    dial: Literal["soft_tokens", "rate"] = Field(description="Which field of a request turns compression.")
    max_soft_tokens: int = Field(description="Largest `soft_tokens`, where that is the dial.")
    rates: list[int | str] = Field(description="What `rate` may be, finest first, where that is the dial.")
    default_rate: int | str | None = None
    note: str | None = Field(None, description="What the user should know of the model.")
    window: int | None
    chunk_size_chars: int
    kv_cache_bytes_per_token: int


class ModelOut(BaseModel):
    """The model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "e2llm"
    e2llm: ModelDetails


class ModelList(BaseModel):
    """The models: one."""

    object: Literal["list"] = "list"
    data: list[ModelOut]


class ErrorBody(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorOut(BaseModel):
    """An error, in OpenAI's shape."""

    error: ErrorBody


class Health(BaseModel):
    """Whether the server works."""

    status: Literal["ok"]
    model: str
    requests: int = Field(description="At work or waiting.")
    max_requests: int
    answers_decoding: int
    texts_reading: int


def as_event(value: BaseModel | dict[str, Any]) -> dict[str, Any]:
    """Plain values of a streamed part."""
    return value if isinstance(value, dict) else value.model_dump(mode="json")
