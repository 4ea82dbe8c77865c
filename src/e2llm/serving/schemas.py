"""The shapes of answers, which are OpenAI's, and of requests and responses about contexts, which are ours.

Descriptions that begin with "e2llm:" are of fields that OpenAI's API does not have.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from e2llm.chunking import CHUNKERS
from e2llm.errors import E2LLMError
from e2llm.inference.options import Selector
from e2llm.validation import CheckedModel

Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
ContextId = Annotated[str, StringConstraints(pattern=r"^ctx_[0-9a-f]{24}$")]
Count = Annotated[int, Field(ge=1)]


class Sent(CheckedModel):
    """A part of a request. Unknown fields are refused; null is the same as leaving a field out."""

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {name: v for name, v in values.items() if v is not None or name not in cls.model_fields}


def _known_kind(kind: str) -> str:
    if kind not in CHUNKERS:
        raise E2LLMError(f"kind must be one of {', '.join(CHUNKERS)}, got {kind[:40]!r}")
    return kind


def _list_kinds(schema: dict[str, Any]) -> None:
    schema["enum"] = [*CHUNKERS]  # looked up when the description is made, so that later kinds are in it


class DocumentIn(Sent):
    """A text with a name."""

    text: str = Field(description="The whole text.")
    name: Name | None = Field(None, description="Shown beside its chunks; by default `text 1`, `text 2`, ...")
    kind: Annotated[str, AfterValidator(_known_kind), Field(json_schema_extra=_list_kinds)] | None = Field(
        None, description="How it is split; by default the model's own way."
    )


# No list is longer than the server can check quickly; the smaller limits are settings.
Documents = Annotated[list[str | DocumentIn], Field(max_length=1000, fail_fast=True)]


# --- answers ------------------------------------------------------------------------------------------------


class PromptDetails(BaseModel):
    """More on the prompt."""

    cached_tokens: int = Field(description="Positions not read again: an earlier prompt began the same.")


class UsageOut(BaseModel):
    """The cost of an answer, in tokens and bytes."""

    prompt_tokens: int = Field(description="Positions of the decoder's window: raw and soft tokens.")
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails = PromptDetails(cached_tokens=0)
    original_tokens: int = Field(description="e2llm: tokens of the prompt with all text given raw.")
    context_tokens: int = Field(description="e2llm: tokens of contexts, documents and compressed messages.")
    soft_tokens: int = Field(description="e2llm: positions of soft tokens.")
    raw_tokens: int = Field(description="e2llm: positions that are text.")
    positions: dict[str, int] = Field(
        description="e2llm: positions of chunks by what they get: `text`, a rate, a number of soft tokens."
    )
    soft_tokens_per_chunk: int = Field(description="e2llm: the mean, rounded up, where chunks differ.")
    rate: int | str | None = Field(None, description="e2llm: the one rate of all chunks, if there is one.")
    note: str | None = Field(None, description="e2llm: a warning about this answer.")
    refined: int = Field(0, description="e2llm: chunks given as text for a second answer (refine).")
    tool_calls: int = Field(0, description="e2llm: calls of tools that the model made.")
    unknown_fraction: float = Field(description="e2llm: share of characters that the encoder does not know.")
    chunks: int
    chunks_left_out: int = Field(description="e2llm: chunks that the decoder did not get.")
    messages_compressed: int = Field(description="e2llm: messages given as soft tokens.")
    compression: float = Field(description="e2llm: context tokens per position of the context.")
    kv_cache_bytes: int = Field(description="e2llm: the decoder's cache for this prompt.")
    original_kv_cache_bytes: int = Field(description="e2llm: the cache with all text given raw.")


class GivenChunk(BaseModel):
    """A chunk that the decoder got."""

    chunk: int = Field(description="Index among the chunks of all contexts and documents of the request.")
    context_id: str | None = Field(None, description="Its context, if it is kept in one.")
    context_chunk: int | None = Field(None, description="Its index there.")
    document: str
    start: int
    end: int


class ExpandedChunk(GivenChunk):
    """A chunk that the decoder got as text."""

    text: str | None = Field(None, description="With return_expanded.")


class SourceOut(GivenChunk):
    """A chunk that an answer may rest on."""

    place: str = Field(description="Such as `page 12` or `lines 40-44`.")
    text: str
    level: int | str = Field(description="What the decoder got: `text`, a rate, or a number of soft tokens.")
    relevance: float = Field(description="To the question; higher is more relevant.")
    weight: float | None = Field(
        None, description="Nats that the answer loses without it; null unless sources are measured."
    )


class TimingOut(BaseModel):
    """Seconds that an answer took."""

    read_seconds: float = Field(description="Reading the texts of this request.")
    queue_seconds: float = Field(description="From the end of reading to the first step of decoding.")
    first_token_seconds: float | None = Field(description="From the request to its first token.")
    prompt_seconds: float | None = Field(description="The decoder's time for the prompt.")
    sources_seconds: float = Field(0.0, description="Measuring the sources.")
    total_seconds: float


class Details(BaseModel):
    """e2llm's additions to an answer."""

    expanded: list[ExpandedChunk]
    sources: list[list[SourceOut]] = Field([], description="Of each choice, at most five chunks.")
    levels: list[int | str | None] = Field(
        [], description="What each chunk of the first prompt got; null for nothing."
    )
    timing: TimingOut | None = None


class Answers(BaseModel):
    """Fields of answers to both chats and completions."""

    id: str
    created: int
    model: str
    usage: UsageOut
    e2llm: Details


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


class ChatOut(Answers):
    """Answers to a conversation."""

    object: Literal["chat.completion"] = "chat.completion"
    choices: list[ChatChoice]


class CompletionChoice(BaseModel):
    """One of n continuations."""

    index: int
    text: str
    finish_reason: Literal["stop", "length"] | None
    logprobs: None = None


class CompletionOut(Answers):
    """Continuations of texts."""

    object: Literal["text_completion"] = "text_completion"
    choices: list[CompletionChoice]


class DocumentsIn(Sent):
    """Texts to add to a context."""

    name: Name | None = Field(None, description="Name of `text`, or of a new context.")
    text: str | None = Field(None, description="One text; or `documents`.")
    documents: Documents | None = Field(None, description="Several texts; or `text`.")
    stream: bool = Field(False, description="Report the reading as server-sent events.")


class ContextIn(DocumentsIn):
    """Texts to read and keep as a context; its name is that of the first text, if it has none itself."""

    chunk_size_chars: int | None = Field(
        None, ge=16, le=100_000, description="Longest chunk in characters; by default the model's."
    )


class ChunkIn(Sent):
    """A text that replaces a chunk."""

    text: str = Field(description="Any length; an empty text deletes the chunk.")


class RelevanceIn(Sent):
    """A question to compare the chunks with."""

    question: str
    select: Selector = Field("bm25", description="By shared words, by similarity of embeddings, or by both.")


class DocumentOut(BaseModel):
    """A document of a context."""

    index: int
    name: str
    characters: int
    chunks: int


class Span(BaseModel):
    """The place of a chunk."""

    chunk: int
    document: int = Field(description="Index of its document, from 0.")
    start: int = Field(description="First character in the document.")
    end: int = Field(description="One past the last.")
    tokens: int = Field(description="Decoder tokens of its text.")


class _Facts(BaseModel):
    id: str
    object: Literal["context"] = "context"
    name: str
    created_at: int = Field(description="Seconds since 1970.")
    updated_at: int
    version: int = Field(description="1, and one more after each edit.")
    characters: int


class ContextOut(_Facts):
    """A context that was read."""

    documents: list[DocumentOut]
    chunks: int
    context_tokens: int = Field(description="Decoder tokens of the text.")
    encoded_chunks: int | None = Field(
        None, description="Chunks that the encoder read for this request; the others were known."
    )
    read_seconds: float | None = Field(None, description="Seconds that this request spent reading.")
    unknown_fraction: float = Field(description="Share of characters that the encoder does not know.")
    note: str | None = Field(None, description="A warning about the reading of a new context.")
    spans: list[Span] | None = Field(None, description="In answers to GET of one context.")


class ContextSummary(_Facts):
    """A context in a list."""

    documents: list[str] = Field(description="Names.")


class ContextList(BaseModel):
    """Contexts, newest first."""

    object: Literal["list"] = "list"
    data: list[ContextSummary]
    has_more: bool
    next: str | None = Field(None, description="For `after`, to get the next page.")


class ContextDeleted(BaseModel):
    """A deleted context."""

    id: str
    object: Literal["context.deleted"] = "context.deleted"
    deleted: bool = True


class ChunkOut(Span):
    """A chunk with its text."""

    text: str
    document_name: str


class ChunkList(BaseModel):
    """Chunks in order."""

    object: Literal["list"] = "list"
    data: list[ChunkOut]
    has_more: bool


class Relevance(BaseModel):
    """Relevance of each chunk to a question."""

    object: Literal["context.relevance"] = "context.relevance"
    scores: list[float] = Field(description="One per chunk; higher is more relevant.")


class ChunkFidelityOut(BaseModel):
    """How well a chunk survived; docs/inference.md says how it is measured."""

    model_config = ConfigDict(from_attributes=True)

    chunk: int
    score: float = Field(description="Geometric mean of its tokens' probabilities, 0 to 1.")
    gain: float = Field(description="What the soft tokens add, in nats per token.")
    token_accuracy: float
    numbers_kept: float | None
    names_kept: float | None


class Fidelity(BaseModel):
    """How well some chunks survived."""

    object: Literal["context.fidelity"] = "context.fidelity"
    soft_tokens: int
    rate: int | str | None = None
    data: list[ChunkFidelityOut]
    has_more: bool
