"""What is sent and sent back about contexts; see `e2llm.serving.schemas.answers` for answers."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from e2llm.inference.options import Selector
from e2llm.serving.schemas.answers import Documents, Name, Sent


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
    select: Selector = Field("fused", description="By shared words, by similarity of embeddings, or by both.")


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
