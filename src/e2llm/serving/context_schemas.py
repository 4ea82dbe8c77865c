"""What is sent and sent back about contexts; see `e2llm.serving.schemas` for answers."""

from typing import Literal

from pydantic import BaseModel, Field, StrictBool, StrictInt

from e2llm.serving.schemas import Documents, Name, Sent, Text


class ContextIn(Sent):
    """A context to read and keep."""

    name: Name | None = Field(None, description="A name for people; by default the first document's.")
    text: Text | None = Field(None, description="One text; or `documents`.")
    documents: Documents | None = Field(None, description="Several texts; or `text`.")
    chunk_size_chars: StrictInt | None = Field(
        None, ge=16, le=100_000, description="Longest chunk in characters; by default the model's."
    )
    stream: StrictBool = Field(False, description="Tell of the reading as server-sent events.")


class DocumentsIn(Sent):
    """Texts to add to a context."""

    text: Text | None = Field(None, description="One text; or `documents`.")
    name: Name | None = Field(None, description="Its name.")
    documents: Documents | None = Field(None, description="Several texts; or `text`.")
    stream: StrictBool = Field(False, description="Tell of the reading as server-sent events.")


class ChunkIn(Sent):
    """A text for the place of a chunk."""

    text: Text = Field(description="Any length; an empty text deletes the chunk.")


class RelevanceIn(Sent):
    """A question to compare the chunks with."""

    question: Text
    select: Literal["bm25", "encoder"] = Field(
        "bm25", description="By shared words, or by similarity of embeddings."
    )


class DocumentOut(BaseModel):
    """A document of a context."""

    index: int
    name: str
    characters: int
    chunks: int


class Span(BaseModel):
    """Where a chunk lies."""

    chunk: int
    document: int = Field(description="Place of its document, from 0.")
    start: int = Field(description="First character in the document.")
    end: int = Field(description="One past the last.")
    tokens: int = Field(description="Decoder tokens of its text.")


class ContextOut(BaseModel):
    """A context that was read."""

    id: str
    object: Literal["context"] = "context"
    name: str
    created_at: int = Field(description="Seconds since 1970.")
    updated_at: int
    version: int = Field(description="1, and one more after each edit.")
    documents: list[DocumentOut]
    characters: int
    chunks: int
    context_tokens: int = Field(description="Decoder tokens of the text.")
    encoded_chunks: int | None = Field(
        None, description="Chunks that the encoder read for this request; the others were known."
    )
    read_seconds: float | None = Field(None, description="Time that this request's reading took.")
    spans: list[Span] | None = Field(None, description="In answers to GET of one context.")


class ContextSummary(BaseModel):
    """A context in a list."""

    id: str
    object: Literal["context"] = "context"
    name: str
    created_at: int
    updated_at: int
    version: int
    documents: list[str] = Field(description="Names.")
    characters: int


class ContextList(BaseModel):
    """Contexts, newest first."""

    object: Literal["list"] = "list"
    data: list[ContextSummary]
    has_more: bool
    next: str | None = Field(None, description="For `after`, to get the next page.")


class ContextDeleted(BaseModel):
    """A context that is gone."""

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
