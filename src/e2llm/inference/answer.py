"""An answer with its cost: positions of the decoder's window, and seconds."""

from dataclasses import dataclass, field

from e2llm.modeling.rates import Rate


@dataclass(frozen=True)
class Usage:
    """Decoder positions that an answer took, and what they carried.

    Attributes:
        context_tokens: Tokens that the context's text would take.
        chunks: Chunks of the context.
        soft_tokens_per_chunk: Soft tokens of each chunk; if the chunks differ, the mean, rounded up.
        soft_tokens: Soft tokens in the decoder's input, of all chunks that are not expanded.
        raw_tokens: Ordinary tokens in the decoder's input: instruction, template and expanded chunks.
        new_tokens: Tokens of the answer, its end token included.
        compression: Context tokens per decoder position that represents the context.
        rate: Encoder tokens per soft token, or `one`; None if the chunks differ or the model has no rate.
        positions: Positions of the chunks by form: `text`, and each rate or number of soft tokens.
        note: A warning about this answer, such as that the adapter is not trained, or None.
        refined: Chunks that were given as text for a second answer (`refine`).
        tool_calls: Calls of tools that the decoder made.
        unknown_fraction: Share of the context's characters that the encoder's vocabulary lacks, 0 to 1.
    """

    context_tokens: int
    chunks: int
    soft_tokens_per_chunk: int
    soft_tokens: int
    raw_tokens: int
    new_tokens: int
    compression: float
    rate: Rate | None = None
    note: str | None = None
    positions: dict[str, int] = field(default_factory=dict)
    refined: int = 0
    tool_calls: int = 0
    unknown_fraction: float = 0.0


@dataclass(frozen=True)
class Timing:
    """Times of an answer, in seconds.

    Attributes:
        read_seconds: Time for reading the context, once for all questions.
        first_token_seconds: Time from the question to the first token; None with beam search.
        total_seconds: Time from the question to the whole answer, without reading.
        sources_seconds: Time after that for measuring the sources.
    """

    read_seconds: float
    first_token_seconds: float | None
    total_seconds: float
    sources_seconds: float = 0.0


@dataclass(frozen=True)
class Source:
    """A chunk that an answer may rest on.

    Attributes:
        chunk: Its index in the context.
        document: Name of its document.
        place: Where in the document it is, such as `page 12` or `lines 40-52`.
        start: Its first character in the document.
        end: The character after its last one.
        text: Its text.
        level: The form that the decoder got: `text`, a rate, or a number of soft tokens.
        relevance: Relevance to the question; higher is more relevant.
        weight: Nats that the answer loses if this chunk is hidden; None if that was not measured.
    """

    chunk: int
    document: str
    place: str
    start: int
    end: int
    text: str
    level: Rate | str
    relevance: float
    weight: float | None = None

    def __str__(self) -> str:
        return f"{self.document}, {self.place}"


@dataclass(frozen=True)
class Answer:
    """An answer with its sources and its cost.

    Attributes:
        text: The answer.
        sources: At most five chunks that it rests on. If measured, those that it is less likely without,
            by weight; if ranked, those given as text, then others, by relevance.
        levels: The form of each chunk of the context: `text`, a rate, a number of soft tokens, or None if the
            decoder did not get it.
        cited: The text with `[n]` after each sentence that rests on the nth source; without numbers if the
            sources were not measured.
        usage: Positions.
        timing: Seconds.
        expanded: Character spans `(start, end)` of the chunks that were given as raw text, in document order.
        expanded_chunks: Their indices in the context.
        left_out: Number of chunks that the decoder did not get (`overflow="select"`).
    """

    text: str
    usage: Usage
    timing: Timing
    expanded: list[tuple[int, int]] = field(default_factory=list)
    expanded_chunks: list[int] = field(default_factory=list)
    left_out: int = 0
    sources: list[Source] = field(default_factory=list)
    levels: list[Rate | str | None] = field(default_factory=list)
    cited: str = ""


@dataclass(frozen=True)
class Doubt:
    """How unlikely the decoder finds an answer.

    Attributes:
        nats_per_token: Loss of the answer in the layout that it was given in, per token.
        finer_nats_per_token: The same with its sources given as text.
        num_tokens: Tokens of the answer, with its end.
    """

    nats_per_token: float
    finer_nats_per_token: float
    num_tokens: int
