"""Conversations of any length: recent turns stay text, older ones are compressed."""

import json
from collections.abc import Iterator, Sequence
from os import PathLike, fspath
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from e2llm.documents import Document
from e2llm.errors import E2LLMError
from e2llm.inference.answer import Answer
from e2llm.inference.context import Context
from e2llm.inference.engine import Engine
from e2llm.validation import CheckedModel

TURN = "User: {}\nAssistant: {}\n"
_EXTRA_KEY = "chat"


class Turn(NamedTuple):
    """A question and its answer, and the decoder tokens of both."""

    question: str
    answer: str
    num_tokens: int


class _SavedChat(CheckedModel, extra="ignore"):
    """The turns and settings of a conversation, saved with its context."""

    turns: list[tuple[str, str, int]] = Field(default=[])
    num_compressed: Annotated[int, Field(ge=0)] = 0
    max_history_tokens: int | None = None


class ChatSession:
    """A conversation, with or without documents; documents can be added at any time.

    The turns since the last compression are in the decoder's window as text. When they pass
    `max_history_tokens`, the oldest of them become documents of the context, one each, until the rest takes
    at most half of that. Each is read once, like any document, and may be given as text again.

    Args:
        engine: The model.
        context: Documents to talk about; it is edited by the session.
        max_history_tokens: Most decoder tokens of raw turns; by default a quarter of the window.
        options: For `Engine.ask` at each turn, such as `expand=2`.

    Raises:
        E2LLMError: If `max_history_tokens` is below 1 or exceeds the window.
    """

    def __init__(
        self,
        engine: Engine,
        context: Context | None = None,
        *,
        max_history_tokens: int | None = None,
        **options: Any,
    ) -> None:
        if max_history_tokens is None:
            max_history_tokens = 1024 if engine.window is None else engine.window // 4
        if type(max_history_tokens) is not int or max_history_tokens < 1:
            raise E2LLMError(f"max_history_tokens must be 1 or more, got {max_history_tokens!r}")
        if engine.window is not None and max_history_tokens >= engine.window:
            raise E2LLMError(
                f"max_history_tokens is {max_history_tokens}, but the decoder's window has "
                f"{engine.window}; use less"
            )
        self.engine = engine
        self.context = engine.new_context() if context is None else context
        self.max_history_tokens = max_history_tokens
        self.options = options
        self.turns: list[Turn] = []
        self.num_compressed = 0

    @property
    def history(self) -> list[tuple[str, str]]:
        """The recent turns that are given as text, oldest first."""
        return [(turn.question, turn.answer) for turn in self.turns[self.num_compressed :]]

    def add(self, source: str | PathLike[str] | Document | Sequence[PathLike[str] | Document]) -> int:
        """Add anything that `Engine.read` accepts, and return the number of chunks that were encoded."""
        documents = self.engine.documents(source, len(self.context.documents))
        if not documents:
            raise E2LLMError("there is no document to add; give at least one text or file")
        return self.context.extend(documents)

    def ask(self, question: str, **options: Any) -> Answer:
        """Answer a question and record the turn; options are those of `Engine.ask`.

        Raises:
            ContextOverflowError: If the turn does not fit the window; the session stays as it was.
        """
        answer = self.engine.ask(self.context, question, **self._options(options))
        self.add_turn(question, answer.text)
        return answer

    def stream(self, question: str, **options: Any) -> Iterator[str]:
        """Yield the answer piece by piece; record the turn when the iterator ends or is closed."""
        pieces = self.engine.stream(self.context, question, **self._options(options))
        return self._note_pieces(question, pieces)

    def _note_pieces(self, question: str, pieces: Iterator[str]) -> Iterator[str]:
        answer, is_turn = "", True
        try:
            for piece in pieces:
                answer += piece
                yield piece
        except Exception:
            is_turn = bool(answer)  # an error before the first piece: there is no turn to record
            raise
        finally:
            pieces.close()  # type: ignore[attr-defined]
            if is_turn:
                self.add_turn(question, answer)

    def _options(self, options: dict[str, Any]) -> dict[str, Any]:
        merged = {"overflow": "select", **self.options, **options}
        return {**merged, "history": self.history}

    def add_turn(self, question: str, answer: str) -> None:
        """Record a turn, and compress the oldest turns if the recent ones are too long."""
        count = self.engine.count_tokens(question) + self.engine.count_tokens(answer)
        self.turns.append(Turn(question, answer, count))
        raw = sum(turn.num_tokens for turn in self.turns[self.num_compressed :])
        if raw <= self.max_history_tokens:
            return
        documents: list[Document] = []
        waiting = self.turns[self.num_compressed :]
        while waiting and raw > self.max_history_tokens // 2:
            if len(waiting) == 1 and waiting[0].num_tokens <= self.max_history_tokens:
                break  # keep the last turn as text, unless it alone is too long
            turn = waiting.pop(0)
            raw -= turn.num_tokens
            text = TURN.format(turn.question, turn.answer)
            name = f"turn {self.num_compressed + len(documents) + 1}"
            documents.append(Document(name, text.replace("\0", "?")))  # an answer may have NUL
        self.context.extend(documents)  # if this fails, the turns stay text and the next turn tries again
        self.num_compressed += len(documents)

    # --- saving ------------------------------------------------------------------------------------------

    def save(self, path: str | PathLike[str]) -> None:
        """Save turns, documents and the states of their chunks atomically into one file."""
        chat = _SavedChat(
            turns=list(self.turns),
            num_compressed=self.num_compressed,
            max_history_tokens=self.max_history_tokens,
        )
        self.context.save(path, extra={_EXTRA_KEY: chat.model_dump()})

    @classmethod
    def load(cls, path: str | PathLike[str], engine: Engine, **options: Any) -> "ChatSession":
        """Load a saved session, or start one about a saved context.

        Raises:
            FileNotFoundError: If there is no such file.
            E2LLMError: If the file is damaged or was saved with another model.
        """
        context, extra = Context.load_with_extra(path, engine)
        try:
            chat = _SavedChat.read_json(json.dumps(extra.get(_EXTRA_KEY, {})))
        except E2LLMError as error:
            raise E2LLMError(f"{fspath(path)}: the saved conversation is damaged: {error}") from error
        session = cls(engine, context, **{"max_history_tokens": chat.max_history_tokens, **options})
        session.turns = [Turn(*turn) for turn in chat.turns]
        session.num_compressed = chat.num_compressed
        return session
