"""Turn messages into a question with its history; turn what does not fit the window into documents.

The oldest turns are compressed first, as in `e2llm.inference.chat`, then the middle of messages that are too
long by themselves. Their first and last paragraphs stay text, since people write there what they want done
with a text that they paste.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from e2llm.documents import Document
from e2llm.inference.chat import TURN
from e2llm.serving.http.api_error import ApiError
from e2llm.serving.schemas import MessageIn

_KEPT_SHARE = 4  # a message that is cut keeps 1/4 of the room as text


@dataclass(frozen=True)
class Conversation:
    """A question with the turns before it.

    Attributes:
        question: The last message, with the instructions of system messages if there is no history.
        history: Earlier questions with their answers, oldest first.
        compressed: Texts of messages that do not fit, to be read as part of the context.
        num_compressed: Messages that these hold, whole or in part.
    """

    question: str
    history: tuple[tuple[str, str], ...] = ()
    compressed: tuple[Document, ...] = ()
    num_compressed: int = 0


def take_turns(messages: Sequence[MessageIn]) -> Conversation:
    """Turn messages into a question and a history.

    Successive messages from the same side are joined. System and developer messages come before the first
    message of the user.

    Raises:
        ApiError: If the last message is not the user's, or holds no text.
    """
    instructions = [item.text for item in messages if item.role in ("system", "developer")]
    spoken = [item for item in messages if item.role in ("user", "assistant")]
    if not spoken or spoken[-1].role != "user" or not spoken[-1].text.strip():
        received = f"one of role {spoken[-1].role!r}" if spoken else "no message of a user"
        message = f"the last message must be the user's and contain text; got {received}"
        raise ApiError(400, message, param="messages")
    turns: list[tuple[list[str], list[str]]] = [([], [])]
    for item in spoken:
        if item.role == "assistant":
            turns[-1][1].append(item.text)
            continue
        if turns[-1][1]:
            turns.append(([], []))
        turns[-1][0].append(item.text)
    turns[0][0][:0] = [text for text in instructions if text.strip()]
    pairs = [("\n\n".join(asked), "\n\n".join(answered)) for asked, answered in turns]
    return Conversation(pairs[-1][0], tuple(pairs[:-1]))


def compress(
    conversation: Conversation, room: int, count: Callable[[str], int], *, takes_history: bool = True
) -> Conversation:
    """Turn what does not fit the window into documents: old turns, and the middle of a long message.

    Args:
        conversation: As `take_turns` returns it.
        room: Decoder tokens that question and history may take as text, 0 or more.
        count: Returns the decoder tokens of a text.
        takes_history: Whether the decoder's chat template takes several turns.

    Returns:
        The same conversation if it fits. The result may still be too long.
    """
    documents: list[Document] = []
    history = list(conversation.history)
    costs = [count(question) + count(answer) for question, answer in history]
    question, asked = conversation.question, count(conversation.question)
    keeps_all = takes_history and asked + sum(costs) <= room
    while history and not keeps_all and (not takes_history or asked + sum(costs) > room // 2):
        costs.pop(0)
        documents.append(Document(f"turn {len(documents) + 1}", TURN.format(*history.pop(0))))
    num_compressed = 2 * len(documents)
    if asked > room:
        question, middle = _cut(question, room, count)
        documents += [Document("message", middle)] if middle.strip() else []
        num_compressed += 1
    return replace(
        conversation,
        question=question,
        history=tuple(history),
        compressed=tuple(documents),
        num_compressed=num_compressed,
    )


def _cut(text: str, room: int, count: Callable[[str], int]) -> tuple[str, str]:
    """Return the first and last paragraphs of a text, and the part between them."""
    share = max(1, room // (2 * _KEPT_SHARE))
    head = _take(text.split("\n\n")[0], share, count, from_end=False)
    rest = text[len(head) :]
    tail = _take(rest.rsplit("\n\n", 1)[-1], share, count, from_end=True)
    return f"{head.rstrip()}\n\n{tail.lstrip()}".strip(), rest[: len(rest) - len(tail)]


def _take(text: str, most: int, count: Callable[[str], int], *, from_end: bool) -> str:
    """Return the part of a text with at most `most` tokens, cut at a line or a word."""
    while text and count(text) > most:
        size = max(1, len(text) * most // (count(text) + 1))
        size = min(size, len(text) - 1)
        cut = text[-size:] if from_end else text[:size]
        mark = "\n" if "\n" in cut else " "
        if mark in cut:
            cut = cut[cut.index(mark) + 1 :] if from_end else cut[: cut.rindex(mark) + 1]
        text = cut
    return text
