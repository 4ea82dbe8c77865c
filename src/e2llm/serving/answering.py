"""From a request to what the decoder gets, and to what the caller is told about it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from e2llm.inference.content import Content, Splitting, join_contents
from e2llm.inference.context import Context
from e2llm.inference.decoding.sampling import Sampling
from e2llm.inference.documents import Document
from e2llm.inference.engine import Engine
from e2llm.inference.layout import LaidOut, usage_of
from e2llm.inference.options import AskRequest
from e2llm.inference.planning import RAW_TOKENS
from e2llm.inference.shared_reader import SharedReader
from e2llm.modeling.rates import check_rate, count_soft_tokens
from e2llm.serving.api_errors import ApiError
from e2llm.serving.backends import DecoderPrompt
from e2llm.serving.conversation import Compressor, Conversation, take_turns
from e2llm.serving.kept_contexts import KeptContexts
from e2llm.serving.schemas import (
    AnswerIn,
    ChatIn,
    CompletionIn,
    DocumentIn,
    ExpandedChunk,
    PromptDetails,
    UsageOut,
)
from e2llm.serving.settings import ServerSettings
from e2llm.store.chunk_store import ChunkStore

_DEFAULT_NEW_TOKENS = 256


@dataclass(frozen=True)
class Prepared:
    """A request, ready to be decoded.

    Attributes:
        prompts: What to decode, n for each prompt of the request.
        usages: Of each prompt of the request, before its answers.
        expanded: Chunks that stand as raw text, of all prompts.
        read_seconds: Time that reading took.
    """

    prompts: list[tuple[DecoderPrompt, Sampling]]
    usages: list[UsageOut]
    expanded: list[ExpandedChunk]
    read_seconds: float

    def usage(self, num_new_tokens: int, num_cached: int) -> UsageOut:
        """What the whole request took: so many new tokens, and so many positions that were not read again."""
        first = self.usages[0]
        sums = {name: sum(getattr(item, name) for item in self.usages) for name in _SUMMED}
        total = sums["prompt_tokens"] + num_new_tokens
        return first.model_copy(
            update={
                **sums,
                "completion_tokens": num_new_tokens,
                "total_tokens": total,
                "prompt_tokens_details": PromptDetails(cached_tokens=num_cached),
            }
        )


_SUMMED = (
    "prompt_tokens",
    "original_tokens",
    "context_tokens",
    "soft_tokens",
    "raw_tokens",
    "chunks",
    "chunks_left_out",
    "messages_compressed",
    "kv_cache_bytes",
    "original_kv_cache_bytes",
)


class _Pieces:
    """The contents that a request is answered from, and where each of their chunks is kept."""

    def __init__(self) -> None:
        self.contents: list[Content] = []
        self.origins: list[tuple[str | None, int]] = []  # of each chunk: its kept context and index there

    def add(self, content: Content, context_id: str | None = None) -> None:
        self.contents.append(content)
        self.origins += [(context_id, index) for index in range(len(content.chunks))]


class Answering:
    """Prepares requests; works in threads of the caller's.

    Args:
        engine: Reads and lays out; its reader is shared by all threads.
        contexts: What requests name.
        store: Where documents of requests are looked up and kept as encoded chunks.
        settings: Limits.
    """

    def __init__(
        self, engine: Engine, contexts: KeptContexts, store: ChunkStore, settings: ServerSettings
    ) -> None:
        self._engine = engine
        self._contexts = contexts
        self._store = store
        self._settings = settings
        self._bytes_per_token = engine.model.cache_bytes_per_token

    def prepare(self, body: ChatIn | CompletionIn, owner: str, is_cancelled: Callable[[], bool]) -> Prepared:
        """Read what a request brings, and lay out its prompts.

        Args:
            body: The request.
            owner: Who asks.
            is_cancelled: Asked while reading.

        Raises:
            ApiError: If the request cannot be answered.
            E2LLMError: The same.
        """
        check_model(body.model, self._settings.model_name)
        sampling = self._sampling(body)
        started = time.perf_counter()
        pieces = _Pieces()
        for context_id in body.context_ids or []:
            pieces.add(self._contexts.get(context_id, owner).context.content, context_id)
        documents = [to_document(item, place) for place, item in enumerate(body.documents or [], 1)]
        check_documents(documents, self._settings, allow_none=True)
        if documents:
            pieces.add(self._read(documents, is_cancelled))
        if isinstance(body, ChatIn):
            conversations = [take_turns(body.messages)]
        else:
            prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
            if not all(text.strip() for text in prompts):
                raise ApiError(400, "a prompt is empty; give a text", code="invalid_value", param="prompt")
            conversations = [Conversation(text) for text in prompts]
        copies = body.n or 1
        if copies * len(conversations) > self._settings.max_answers:
            raise ApiError(
                400,
                f"{copies * len(conversations)} answers are asked for, the most is "
                f"{self._settings.max_answers}; lower n or send fewer prompts",
                code="invalid_value",
                param="n",
            )
        laid = [self._lay_out(body, talk, pieces, sampling, is_cancelled) for talk in conversations]
        seeds = [None if sampling.seed is None else sampling.seed + place for place in range(copies)]
        return Prepared(
            [(prompt, replace(sampling, seed=seed)) for prompt, _, _ in laid for seed in seeds],
            [usage for _, usage, _ in laid],
            [chunk for _, _, expanded in laid for chunk in expanded],
            time.perf_counter() - started,
        )

    def _read(self, documents: Sequence[Document], is_cancelled: Callable[[], bool]) -> Content:
        reader = self._engine.reader
        assert isinstance(reader, SharedReader)
        with reader.watched(lambda *_: None, is_cancelled):
            return self._engine.read(list(documents), store=self._store, progress=False).content

    def _sampling(self, body: AnswerIn) -> Sampling:
        window = self._engine.window
        wanted = body.max_tokens
        if isinstance(body, ChatIn) and body.max_completion_tokens is not None:
            if wanted not in (None, body.max_completion_tokens):
                raise ApiError(
                    400,
                    "max_tokens and max_completion_tokens mean the same and differ; give one of them",
                    code="invalid_value",
                    param="max_tokens",
                )
            wanted = body.max_completion_tokens
        if wanted is None:
            wanted = min(
                _DEFAULT_NEW_TOKENS,
                self._settings.max_new_tokens,
                max(1, (window or 4 * _DEFAULT_NEW_TOKENS) // 4),
            )
        if wanted > self._settings.max_new_tokens:
            raise ApiError(
                400,
                f"max_tokens is {wanted}, the most that this server allows is "
                f"{self._settings.max_new_tokens}",
                code="invalid_value",
                param="max_tokens",
            )
        stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
        if not all(stop):
            raise ApiError(400, "a stop text is empty; leave it out", code="invalid_value", param="stop")
        return Sampling(
            wanted,
            temperature=body.temperature or 0.0,
            top_p=1.0 if body.top_p is None else body.top_p,
            seed=body.seed,
            stop=tuple(stop),
            presence_penalty=body.presence_penalty or 0.0,
            frequency_penalty=body.frequency_penalty or 0.0,
            min_new_tokens=body.min_tokens or 0,
        )

    # --- laying out ---------------------------------------------------------------------------------------

    def _lay_out(
        self,
        body: AnswerIn,
        conversation: Conversation,
        pieces: _Pieces,
        sampling: Sampling,
        is_cancelled: Callable[[], bool],
    ) -> tuple[DecoderPrompt, UsageOut, list[ExpandedChunk]]:
        conversation = self._fit(body, conversation, pieces, sampling)
        contents, origins = list(pieces.contents), list(pieces.origins)
        if conversation.compressed:
            content = self._read(conversation.compressed, is_cancelled)
            contents.append(content)
            origins += [(None, index) for index in range(len(content.chunks))]
        content = join_contents(contents, Context.empty().content)
        context = self._engine.bind(content, Splitting.of(self._engine.processor), 0.0, store=self._store)
        request = self._request(body, conversation, sampling)
        laid = self._engine.lay_out(context, request)
        is_chat = isinstance(body, ChatIn)
        if not is_chat:
            laid = self._without_answer_mark(laid, conversation.question)
        usage = self._usage(laid, conversation)
        expanded = [self._expanded(laid, index, origins, body) for index in laid.plan.expand]
        return DecoderPrompt(laid, request, is_chat), usage, expanded

    def _request(self, body: AnswerIn, conversation: Conversation, sampling: Sampling) -> AskRequest:
        return AskRequest.read(
            {
                "question": conversation.question,
                "max_new_tokens": sampling.max_new_tokens,
                "soft_tokens": body.soft_tokens,
                "rate": body.rate,
                "expand": 0 if body.expand is None else body.expand,
                "expand_tokens": body.expand_tokens,
                "select": body.select or "bm25",
                "overflow": body.overflow or "error",
                "history": conversation.history,
            }
        )

    def _fit(
        self, body: AnswerIn, conversation: Conversation, pieces: _Pieces, sampling: Sampling
    ) -> Conversation:
        """The conversation with what does not fit the window compressed."""
        window = self._engine.window
        takes_history = self._engine.processor.template.between_turns is not None
        if window is None and takes_history:
            return conversation
        counts = [count for content in pieces.contents for count in content.token_counts]
        expand = body.expand if isinstance(body.expand, int) else 0
        raw = max(counts, default=0) * expand + (body.expand_tokens or 0)
        if isinstance(body.expand, list):
            raw += sum(counts[index] for index in body.expand if 0 <= index < len(counts))
        dial, rate = self._engine.dial, body.rate
        soft = len(counts) * (body.soft_tokens or 1)
        if dial.answers_raw(rate):
            soft, raw = 0, max(raw, min(RAW_TOKENS, sum(counts)))
        elif dial.has_rate and isinstance(rate, int | str):
            lengths = [int(n) for content in pieces.contents for n in content.read.num_tokens]
            soft = sum(count_soft_tokens(length, check_rate(rate)) for length in lengths)
        template = self._engine.count_positions(
            "", [("", "") for _ in conversation.history] if takes_history else ()
        )
        room = (window or 2**31) - sampling.max_new_tokens - template
        room -= min(soft + raw, max(0, room) // 2)
        compressor = Compressor(self._engine.count_tokens, takes_history)
        return compressor.fit(conversation, max(0, room))

    def _without_answer_mark(self, laid: LaidOut, prompt: str) -> LaidOut:
        """A text to go on with: nothing stands between it and what comes next."""
        processor = self._engine.processor
        after = len(processor.template.before_answer)
        ids = laid.sample.input_ids
        if laid.content.chunks:
            ids = ids[: len(ids) - after]
        else:
            begin = processor.tokenizer.bos_token_id
            ids = [*([] if begin is None else [begin]), *processor.encode(prompt)]
        labels = laid.sample.labels[: len(ids)]
        return replace(laid, sample=replace(laid.sample, input_ids=ids, labels=labels))

    # --- telling ------------------------------------------------------------------------------------------

    def _usage(self, laid: LaidOut, conversation: Conversation) -> UsageOut:
        content, plan, usage = laid.content, laid.plan, usage_of(laid)
        positions = len(laid.sample.input_ids)
        expanded = sum(content.token_counts[index] for index in plan.expand)
        original = usage.raw_tokens - expanded + usage.context_tokens
        return UsageOut(
            prompt_tokens=positions,
            completion_tokens=0,
            total_tokens=positions,
            original_tokens=original,
            context_tokens=usage.context_tokens,
            soft_tokens=usage.soft_tokens,
            raw_tokens=usage.raw_tokens,
            soft_tokens_per_chunk=plan.soft_tokens if usage.soft_tokens else 0,
            rate=plan.rate if usage.soft_tokens else None,
            note=usage.note,
            chunks=usage.chunks,
            chunks_left_out=plan.left_out,
            messages_compressed=conversation.num_compressed,
            compression=usage.compression,
            kv_cache_bytes=positions * self._bytes_per_token,
            original_kv_cache_bytes=original * self._bytes_per_token,
        )

    @staticmethod
    def _expanded(
        laid: LaidOut, index: int, origins: Sequence[tuple[str | None, int]], body: AnswerIn
    ) -> ExpandedChunk:
        chunk, (context_id, place) = laid.content.chunks[index], origins[index]
        return ExpandedChunk(
            chunk=index,
            context_id=context_id,
            context_chunk=None if context_id is None else place,
            document=laid.content.sources[index],
            start=chunk.start,
            end=chunk.end,
            text=chunk.text if body.return_expanded else None,
        )


def check_model(name: str, served: str) -> None:
    """Raise `ApiError` (404) for a model that is not served."""
    if name != served:
        raise ApiError(
            404,
            f"the model {name!r} is not served here; use {served!r}",
            code="model_not_found",
            param="model",
        )


def to_document(item: str | DocumentIn, place: int) -> Document:
    """A document of a request; `place` names it, from 1, where it has no name."""
    if isinstance(item, str):
        return Document(f"text {place}", item)
    return Document(item.name or f"text {place}", item.text, item.kind)


def check_documents(
    documents: Sequence[Document], settings: ServerSettings, *, present: int = 0, allow_none: bool = False
) -> None:
    """Raise `ApiError` for too many documents, too long ones, or none with text.

    Args:
        documents: New ones.
        settings: The limits.
        present: Documents that are there already.
        allow_none: Whether there may be none.
    """
    count = len(documents) + present
    if count > settings.max_documents:
        raise ApiError(
            400, f"{count} documents, the most is {settings.max_documents}; join some", param="documents"
        )
    total = sum(len(item.text) for item in documents)
    if total > settings.max_context_chars:
        raise ApiError(
            413,
            f"the documents have {total:,} characters, the most is {settings.max_context_chars:,}",
            code="context_too_long",
            param="documents",
        )
    empty = next((item.name for item in documents if not item.text.strip()), None)
    if empty is not None or (not documents and not allow_none):
        raise ApiError(
            400,
            "there is no text; give text or documents" if empty is None else f"{empty}: the text is empty",
            code="invalid_value",
            param="text" if empty is None else "documents",
        )
