"""Turn a request into the decoder's input, and report its usage."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from e2llm.documents import Document
from e2llm.errors import ContextOverflowError, E2LLMError
from e2llm.inference.answer import Source
from e2llm.inference.content import Content, Splitting, join_contents
from e2llm.inference.context import Context
from e2llm.inference.decoding.sampling import Sampling
from e2llm.inference.engine import Engine
from e2llm.inference.layout import LaidOut, usage_of
from e2llm.inference.options import AskRequest, LayoutOptions
from e2llm.inference.planning import DEFAULT_BUDGET
from e2llm.inference.shared_reader import SharedReader
from e2llm.modeling.rates import Rate
from e2llm.serving.conversation import Conversation, compress, take_messages
from e2llm.serving.http.api_error import ApiError
from e2llm.serving.kept_contexts import KeptContexts
from e2llm.serving.requests import AnswerIn, ChatIn, CompletionIn
from e2llm.serving.schemas import DocumentIn, ExpandedChunk, PromptDetails, SourceOut, UsageOut
from e2llm.serving.settings import ServerSettings
from e2llm.store.chunk_store import ChunkStore

_DEFAULT_NEW_TOKENS = 256
Origin = tuple[str | None, int]
_Piece = tuple[Content, str | None]  # texts of a request, and the id of their kept context
# Of the first prompt; all else is summed.
_MEANS = {"soft_tokens_per_chunk", "rate", "note", "compression", "positions", "unknown_fraction"}


@dataclass(frozen=True)
class Prepared:
    """A request, ready to be decoded.

    Attributes:
        prompts: Inputs of the decoder, and how tokens are chosen; n for each prompt of the request.
        origins: For each of these, the kept context of each chunk, if it is in one, and its index there.
        usages: Of each prompt of the request, before its answers.
        expanded: Chunks given as raw text, of all prompts.
        read_seconds: Time that reading took.
    """

    prompts: list[tuple[LaidOut, Sampling]]
    origins: list[list[Origin]]
    usages: list[UsageOut]
    expanded: list[ExpandedChunk]
    read_seconds: float

    def sources(self, index: int, sources: Sequence[Source]) -> list[SourceOut]:
        """Return the sources of the answer to a prompt."""
        more = ("place", "text", "level", "relevance", "weight")
        return [
            SourceOut(
                **_given(self.prompts[index][0], source.chunk, self.origins[index][source.chunk]),
                **{name: getattr(source, name) for name in more},
            )
            for source in sources
        ]

    def usage(self, num_new_tokens: int, num_cached: int) -> UsageOut:
        """Return the cost of the whole request with its new tokens and the positions not read again."""
        names = UsageOut.model_fields.keys() - _MEANS - {"prompt_tokens_details"}
        sums = {name: sum(getattr(item, name) for item in self.usages) for name in names}
        sums["completion_tokens"] = num_new_tokens
        sums["total_tokens"] = sums["prompt_tokens"] + num_new_tokens
        details = PromptDetails(cached_tokens=num_cached)
        return self.usages[0].model_copy(update={**sums, "prompt_tokens_details": details})


class RequestPreparer:
    """Prepares requests, in the threads of its callers.

    Args:
        engine: Reads and lays out; its reader is shared by all threads.
        contexts: The contexts that requests name.
        store: Keeps the encoded chunks of a request's documents.
        settings: Limits.
    """

    def __init__(
        self, engine: Engine, contexts: KeptContexts, store: ChunkStore, settings: ServerSettings
    ) -> None:
        self._engine = engine
        self._contexts = contexts
        self._store = store
        self._settings = settings

    def prepare(self, body: ChatIn | CompletionIn, owner: str, is_cancelled: Callable[[], bool]) -> Prepared:
        """Read a request's texts, and lay out its prompts.

        Args:
            body: The request.
            owner: Owner of its contexts.
            is_cancelled: Asked while reading.

        Raises:
            ApiError: If the request cannot be answered.
            E2LLMError: The same.
        """
        check_model(body.model, self._settings.model_name)
        check_dial(self._engine, body.soft_tokens, body.rate)
        sampling = self._sampling(body)
        conversations = self._conversations(body)
        started = time.perf_counter()
        pieces: list[_Piece] = [
            (self._contexts.get(context_id, owner).context.content, context_id)
            for context_id in body.context_ids
        ]
        documents = [to_document(item, place) for place, item in enumerate(body.documents, 1)]
        if documents:
            check_documents(documents, self._settings)
            self._check_room(documents, body, sampling)
            pieces.append((self._read(documents, is_cancelled), None))
        laid = [self._lay_out(body, talk, pieces, sampling, is_cancelled) for talk in conversations]
        seeds = [None if sampling.seed is None else sampling.seed + place for place in range(body.n)]
        return Prepared(
            [(prompt, replace(sampling, seed=seed)) for prompt, _, _ in laid for seed in seeds],
            [origins for _, origins, _ in laid for _ in seeds],
            [usage for _, _, usage in laid],
            [
                ExpandedChunk(
                    **_given(prompt, index, origins[index]),
                    text=prompt.content.chunks[index].text if body.return_expanded else None,
                )
                for prompt, origins, _ in laid
                for index in prompt.plan.expand
            ],
            time.perf_counter() - started,
        )

    def _conversations(self, body: ChatIn | CompletionIn) -> list[Conversation]:
        if isinstance(body, ChatIn):
            found = [take_messages(body.messages)]
        else:
            prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
            if not all(text.strip() for text in prompts):
                raise ApiError(400, "a prompt is empty; give a text", param="prompt")
            found = [Conversation.of_prompt(text) for text in prompts]
        texts = [item.text for talk in found for item in talk.messages]
        field = "messages" if isinstance(body, ChatIn) else "prompt"
        check_length(sum(map(len, texts)), self._settings, field)
        count, most = body.n * len(found), self._settings.max_answers
        if count > most:
            message = f"{count} answers were requested, but the most is {most}; lower n or send fewer prompts"
            raise ApiError(400, message, param="n")
        return found

    def _read(self, documents: Sequence[Document], is_cancelled: Callable[[], bool]) -> Content:
        reader = self._engine.reader
        assert isinstance(reader, SharedReader)
        with reader.watched(lambda *_: None, is_cancelled):
            return self._engine.read(list(documents), store=self._store, progress=False).content

    def _sampling(self, body: ChatIn | CompletionIn) -> Sampling:
        most = self._settings.max_new_tokens
        wanted = body.max_tokens
        if isinstance(body, ChatIn) and body.max_completion_tokens is not None:
            if wanted not in (None, body.max_completion_tokens):
                message = "max_tokens and max_completion_tokens mean the same but differ; give one of them"
                raise ApiError(400, message, param="max_tokens")
            wanted = body.max_completion_tokens
        if wanted is None:
            window = self._engine.window or 4 * _DEFAULT_NEW_TOKENS
            wanted = min(_DEFAULT_NEW_TOKENS, most, max(1, window // 4))
        if wanted > most:
            message = f"max_tokens is {wanted}, but this server allows at most {most}; lower it"
            raise ApiError(400, message, param="max_tokens")
        return Sampling(
            wanted,
            temperature=body.temperature,
            top_p=body.top_p,
            seed=body.seed,
            stop=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop),
            presence_penalty=body.presence_penalty,
            frequency_penalty=body.frequency_penalty,
            min_new_tokens=body.min_tokens,
            continues=isinstance(body, CompletionIn),
        )

    # --- laying out ---------------------------------------------------------------------------------------

    def _lay_out(
        self,
        body: AnswerIn,
        conversation: Conversation,
        pieces: list[_Piece],
        sampling: Sampling,
        is_cancelled: Callable[[], bool],
    ) -> tuple[LaidOut, list[Origin], UsageOut]:
        conversation = self._fit(body, conversation, [content for content, _ in pieces], sampling)
        if conversation.compressed:
            self._check_room(conversation.compressed, body, sampling)
            pieces = [*pieces, (self._read(conversation.compressed, is_cancelled), None)]
        origins = [(name, index) for content, name in pieces for index in range(len(content.chunks))]
        content = join_contents([content for content, _ in pieces], Context.empty().content)
        context = self._engine.bind(content, Splitting.of(self._engine.processor), 0.0, store=self._store)
        *history, (question, _) = conversation.turns
        request = _request_of(body, sampling, question, history=history, ranking=conversation.asked)
        laid = self._engine.lay_out(context, request)
        if isinstance(body, CompletionIn):
            laid = self._without_answer_mark(laid, question)
        return laid, origins, self._usage(laid, conversation)

    def _fit(
        self, body: AnswerIn, conversation: Conversation, contents: Sequence[Content], sampling: Sampling
    ) -> Conversation:
        """Return the conversation with the part compressed that does not fit the window."""
        engine = self._engine
        takes_history = engine.processor.template.between_turns is not None
        if engine.window is None and takes_history:
            return conversation
        history = [("", "") for _ in conversation.turns[:-1]] if takes_history else []
        around = engine.count_positions("", history, has_tools=_calls_of(body) > 0)
        room = (engine.window or 2**31) - sampling.max_new_tokens - around
        joins = len(conversation.messages) - sum(bool(text) for turn in conversation.turns for text in turn)
        room -= min(self._positions(body, contents), max(0, room) // 2) + 2 * joins  # two line ends
        return compress(conversation, max(0, room), engine.count_tokens, takes_history=takes_history)

    def _check_room(self, documents: Sequence[Document], body: AnswerIn, sampling: Sampling) -> None:
        """Refuse texts that cannot fit at the requested level: before they are read, which takes long.

        Raises:
            ContextOverflowError: If they do not fit.
        """
        window, processor = self._engine.window, self._engine.processor
        if window is None or not body.has_level or body.overflow == "select":
            return
        size = processor.chunk_size_chars
        num_chars = sum(
            len(item.text) for item in documents if (item.kind or processor.chunk_kind) != "tokens"
        )
        if num_chars > window * size:  # each chunk takes a position at least
            raise ContextOverflowError(
                f"the texts have {num_chars:,} characters, but the decoder's window has room for fewer than "
                f"{window * size:,} at this level; send less, or leave rate and soft_tokens out"
            )
        if not isinstance(body.soft_tokens, list) and not isinstance(body.rate, list):
            with self._engine.reader.lock:
                self._engine.check_room(documents, _request_of(body, sampling, "?"))

    def _positions(self, body: AnswerIn, contents: Sequence[Content]) -> int:
        """Estimate the positions that contexts and documents need."""
        counts = [count for content in contents for count in content.token_counts]
        if body.has_level:
            lengths = [int(length) for content in contents for length in content.read.num_tokens]
            return sum(self._engine.dial.level(lengths, body.soft_tokens, body.rate).counts)
        return min(body.budget or DEFAULT_BUDGET, sum(counts))

    def _without_answer_mark(self, laid: LaidOut, prompt: str) -> LaidOut:
        """Return a text to continue: nothing comes between it and the answer."""
        processor = self._engine.processor
        ids = laid.sample.input_ids
        if laid.content.chunks:
            ids = ids[: len(ids) - len(processor.template.before_answer)]
        else:
            begin = processor.tokenizer.bos_token_id
            ids = [*([] if begin is None else [begin]), *processor.encode(prompt)]
        labels = laid.sample.labels[: len(ids)]
        return replace(laid, sample=replace(laid.sample, input_ids=ids, labels=labels))

    def _usage(self, laid: LaidOut, conversation: Conversation) -> UsageOut:
        plan, usage = laid.plan, usage_of(laid)
        positions = len(laid.sample.input_ids)
        expanded = sum(laid.content.token_counts[index] for index in plan.expand)
        original = usage.raw_tokens - expanded + usage.context_tokens
        bytes_per_token = self._engine.model.cache_bytes_per_token
        values = asdict(usage)
        if not usage.soft_tokens:
            values |= {"soft_tokens_per_chunk": 0, "rate": None}
        return UsageOut(
            **values,
            prompt_tokens=positions,
            completion_tokens=0,
            total_tokens=positions,
            original_tokens=original,
            chunks_left_out=plan.left_out,
            messages_compressed=conversation.num_compressed,
            kv_cache_bytes=positions * bytes_per_token,
            original_kv_cache_bytes=original * bytes_per_token,
        )


def _request_of(body: AnswerIn, sampling: Sampling, question: str, **more: Any) -> AskRequest:
    options = {name: getattr(body, name) for name in LayoutOptions.model_fields}
    options |= {"max_new_tokens": sampling.max_new_tokens, "tool_calls": _calls_of(body)}
    return AskRequest(question=question, **options, **more)


def _calls_of(body: AnswerIn) -> int:
    return body.tool_calls if isinstance(body, ChatIn) else 0


def _given(laid: LaidOut, index: int, origin: Origin) -> dict[str, Any]:
    chunk, (context_id, place) = laid.content.chunks[index], origin
    return {
        "chunk": index,
        "context_id": context_id,
        "context_chunk": None if context_id is None else place,
        "document": laid.content.sources[index],
        "start": chunk.start,
        "end": chunk.end,
    }


# --- checks -------------------------------------------------------------------------------------------------


def check_model(name: str, served: str) -> None:
    """Raise `ApiError` (404) for a model that is not served."""
    if name != served:
        message = f"the model {name[:80]!r} is not served here; use {served!r}"
        raise ApiError(404, message, code="model_not_found", param="model")


def check_dial(engine: Engine, soft_tokens: int | list[int] | None, rate: Rate | list[Rate] | None) -> None:
    """Raise `ApiError` (400) for soft tokens or a rate that the model does not take."""
    dial, config = engine.dial, engine.model.config
    own, allowed = "soft_tokens", f"a number from 1 to {config.max_soft_tokens}"
    if dial.has_rate:
        own, allowed = "rate", f"one of {', '.join(map(str, dial.rates))}"
    for field, value in (("soft_tokens", soft_tokens), ("rate", rate)):
        for item in value if isinstance(value, list) else [value]:
            try:
                dial.check(**{field: item})
            except E2LLMError as error:
                message = f"{field} {item} was given; for this model, {own} is {allowed}: "
                advice = "choose one of these" if field == own else f"leave {field} out, or give {own}"
                raise ApiError(400, message + advice, param=field) from error


def to_document(item: str | DocumentIn, place: int) -> Document:
    """Return a document of a request; `place` names it, from 1, where it has no name."""
    if isinstance(item, str):
        return Document(f"text {place}", item)
    return Document(item.name or f"text {place}", item.text, item.kind)


def check_documents(documents: Sequence[Document], settings: ServerSettings, present: int = 0) -> None:
    """Raise `ApiError` for too many documents, too long ones, or documents without text.

    Args:
        documents: New ones, at least one.
        settings: The limits.
        present: Documents of the context so far.
    """
    count = len(documents) + present
    if count > settings.max_documents:
        message = f"got {count} documents, but the most is {settings.max_documents}; join some"
        raise ApiError(400, message, param="documents")
    check_length(sum(len(item.text) for item in documents), settings)
    if not documents:
        raise ApiError(400, "there is no text; give text, documents or files", param="documents")
    for item in documents:
        if not item.text.strip():
            raise ApiError(400, f"{item.name}: the text is empty; leave it out", param="text")


def check_length(num_chars: int, settings: ServerSettings, field: str = "documents") -> None:
    """Raise `ApiError` (413) for too many characters in a field."""
    most = settings.max_context_chars
    if num_chars > most:
        message = f"{field}: the text has {num_chars:,} characters, but the most is {most:,}; send less"
        raise ApiError(413, message, code="context_too_long", param=field)
