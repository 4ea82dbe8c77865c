"""Turn messages into a question with its history; turn what does not fit the window into documents.

Each message is cut by itself, the longest first, so that a pasted document never takes the place of what is
asked about it. A message that is cut keeps its questions, its beginning, its end and some short
paragraphs as text: people write there what they want done with a text that they paste.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from e2llm.documents import Document
from e2llm.inference.chat import TURN
from e2llm.serving.http.api_error import ApiError
from e2llm.serving.requests import MessageIn, name_of_call

_MOST_CHARS = 32  # of a token, in any natural text; what is longer is too long, and need not be counted
_PARAGRAPH_CHARS = 8  # the same of the mean token of a paragraph
_QUESTION_TOKENS = 32  # of questions that stay where a third of what is kept is less
_QUESTION_MARKS = ("?", "？", "؟")
_LINE_CHARS = 1000  # a paragraph with a longer line has one paragraph on each line
_EMPTY_LINES = re.compile(r"\n\s*\n")
Counter = Callable[[str], int]


@dataclass(frozen=True)
class Message:
    """A text of one side.

    Attributes:
        side: `system` for instructions, `user` also for results of tools.
        text: Its text.
        stays: Whether it stays text while it fits: instructions, and the user's last message.
    """

    side: Literal["system", "user", "assistant"]
    text: str
    stays: bool = False


@dataclass(frozen=True)
class Conversation:
    """Messages up to the one to answer.

    Attributes:
        messages: In order.
        continues: Whether the one message is a text to continue, whose end must stay as it is.
        compressed: Texts of messages that do not fit, to be read as part of the context.
        num_compressed: Messages that these hold, whole or in part.
    """

    messages: tuple[Message, ...]
    continues: bool = False
    compressed: tuple[Document, ...] = ()
    num_compressed: int = 0

    @classmethod
    def of_prompt(cls, text: str) -> "Conversation":
        """Return a text to continue."""
        return cls((Message("user", text, stays=True),), continues=True)

    @property
    def turns(self) -> list[tuple[str, str]]:
        """Questions with their answers, the last of them empty; instructions come before the first.

        Successive messages from the same side are joined.
        """
        asked = [_texts_of(turn, "user") for turn in _split(self.messages)]
        answered = [_texts_of(turn, "assistant") for turn in _split(self.messages)]
        asked[0] = [*_texts_of(self.messages, "system"), *asked[0]]
        return [("\n\n".join(one), "\n\n".join(two)) for one, two in zip(asked, answered, strict=True)]

    @property
    def asked(self) -> str:
        """The user's last message."""
        return next(item.text for item in reversed(self.messages) if item.stays and item.side == "user")


def _split(messages: Sequence[Message]) -> list[list[Message]]:
    """Return the messages of each turn, without instructions; a turn ends where the user answers."""
    turns: list[list[Message]] = [[]]
    for item in messages:
        if item.side == "system":
            continue
        if item.side == "user" and turns[-1] and turns[-1][-1].side == "assistant":
            turns.append([])
        turns[-1].append(item)
    return turns


def _texts_of(messages: Sequence[Message], side: str) -> list[str]:
    return [item.text for item in messages if item.side == side and item.text.strip()]


def take_messages(messages: Sequence[MessageIn]) -> Conversation:
    """Turn the messages of a request into a conversation; results of tools are the user's.

    Raises:
        ApiError: If the last message is not the user's, or holds no text.
    """
    spoken = [item for item in messages if item.role not in ("system", "developer")]
    users = [item for item in spoken if item.role == "user" and item.text.strip()]
    last_role = spoken[-1].role if spoken else "system"
    unanswerable = last_role == "assistant" or (last_role == "user" and spoken[-1] not in users[-1:])
    if unanswerable or not users:
        received = f"one of role {last_role!r}" if users else "no message of a user with text"
        message = f"the last message must be the user's and contain text; got {received}"
        raise ApiError(400, message, param="messages")
    tools = {str(call.get("id")): name_of_call(call) for item in messages for call in item.tool_calls}
    found = []
    for item in messages:
        if item.role in ("tool", "function"):
            name = item.name or tools.get(str(item.tool_call_id)) or "a tool"
            found.append(Message("user", f"[result of {name}]\n{item.text}"))
        elif item.role in ("system", "developer"):
            found.append(Message("system", item.text, stays=True))
        else:
            side: Literal["user", "assistant"] = "user" if item.role == "user" else "assistant"
            found.append(Message(side, item.text, stays=item is users[-1]))
    return Conversation(tuple(found))


# --- what fits ----------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Part:
    """A message while room is made.

    Attributes:
        number: Place among the messages, from 1.
        message: As it was sent.
        kept: What stays text.
        tokens: Of what stays text.
        removed: The rest.
    """

    number: int
    message: Message
    kept: str
    tokens: int
    removed: str = ""


def compress(
    conversation: Conversation, room: int, count: Counter, *, takes_history: bool = True
) -> Conversation:
    """Turn what does not fit the window into documents.

    Instructions and the user's last message stay text while they fit. If they do not, or if another message
    is long, the longest is cut first. Then the oldest turns are compressed.

    Args:
        conversation: As it was sent.
        room: Decoder tokens that all messages may take as text, 0 or more.
        count: Returns the decoder tokens of a text.
        takes_history: Whether the decoder's chat template takes several turns.

    Returns:
        The same conversation if it fits. The result may still be too long.
    """
    most = (room + 1) * _MOST_CHARS
    parts = [
        _Part(number, item, item.text, count(item.text[:most]) + len(item.text[most:]))
        for number, item in enumerate(conversation.messages, 1)
    ]
    turns = _split(conversation.messages)
    if _tokens(parts) <= room and (takes_history or len(turns) == 1):
        return conversation
    staying = [part for part in parts if part.message.stays]
    others = [part for part in parts if not part.message.stays]
    cut = _Cutter(count, conversation.continues).shorten
    # What is compressed needs room too: at least an eighth, and a half if anything but `staying` is text.
    most_text, half = room - room // 8, room // 2
    cut(staying, most_text, room // 4, least=1)
    cut(others, half - _tokens(staying), room // 8)
    dropped: list[list[_Part]] = []
    while not any(item.stays for item in turns[0]) and (not takes_history or _tokens(parts) > half):
        gone = set(map(id, turns.pop(0)))
        dropped.append([part for part in parts if id(part.message) in gone])
        parts = [part for part in parts if id(part.message) not in gone]
    cut([part for part in parts if not part.message.stays], most_text - _tokens(staying), room // 8, least=0)
    messages = [replace(part.message, text=part.kept) for part in parts]
    if not takes_history:  # calls of tools and their results follow the question
        messages = [replace(item, side="user") if item.side == "assistant" else item for item in messages]
    return replace(
        conversation,
        messages=tuple(messages),
        compressed=tuple(_documents_of(dropped, parts)),
        num_compressed=sum(map(len, dropped)) + sum(bool(part.removed.strip()) for part in parts),
    )


def _tokens(parts: Sequence[_Part]) -> int:
    return sum(part.tokens for part in parts)


def _documents_of(dropped: Sequence[Sequence[_Part]], parts: Sequence[_Part]) -> list[Document]:
    documents = []
    for number, turn in enumerate(dropped, 1):
        messages = [part.message for part in turn]
        sides = ("\n\n".join(_texts_of(messages, side)) for side in ("user", "assistant"))
        documents.append(Document(f"turn {number}", TURN.format(*sides)))
    removed = [part for part in parts if part.removed.strip()]
    return documents + [Document(f"message {part.number}", part.removed) for part in removed]


class _Cutter:
    """Cuts messages.

    Args:
        count: Returns the decoder tokens of a text.
        continues: Whether the end of a text must stay as it is.
    """

    def __init__(self, count: Counter, continues: bool) -> None:
        self._count = count
        self._continues = continues

    def shorten(self, parts: Sequence[_Part], most: int, keep: int, *, least: int | None = None) -> None:
        """Cut the longest message until all together have at most `most` tokens.

        Args:
            parts: The messages.
            most: Tokens of all.
            keep: Tokens that a message keeps. Only messages of more than twice as many are cut.
            least: Halve `keep` where that is not enough, until it is this; by default leave them too long.
        """
        while parts and _tokens(parts) > most:
            longest = max(parts, key=lambda part: part.tokens)
            if longest.tokens > 2 * keep:
                kept, removed = self.cut(longest.message.text, keep)
                tokens = self._count(kept)
                if tokens < longest.tokens and (kept.strip() or not longest.message.stays):
                    longest.kept, longest.removed, longest.tokens = kept, removed, tokens
                    continue
            if least is None or keep <= least:
                return
            keep //= 2

    def cut(self, text: str, keep: int) -> tuple[str, str]:
        """Return what stays text, of about `keep` tokens at most, and the rest."""
        if not keep:
            return "", text
        if self._continues:
            head = self._take(text.split("\n\n", 1)[0], keep // 4)
            tail = self._take(text[len(head) :], keep - keep // 4, from_end=True)
            return f"{head.rstrip()}\n\n{tail}".lstrip("\n"), text[len(head) : len(text) - len(tail)]
        blocks = _paragraphs(text, min(_LINE_CHARS, keep * _PARAGRAPH_CHARS))
        short = self._short(blocks, keep)
        last = len(blocks) - 1
        open_ends = sum(end not in short for end in (0, last))
        share = max(0, keep - sum(short.values())) // max(1, open_ends)
        kept, removed = [], []
        for index, block in enumerate(blocks):
            if index in short:
                kept.append(block)
                continue
            head = self._take(block, share) if index == 0 else ""
            tail = self._take(block[len(head) :], share, from_end=True) if index == last else ""
            kept += [head.rstrip(), tail.lstrip()]
            removed.append(block[len(head) : len(block) - len(tail)])
        return "\n\n".join(item for item in kept if item.strip()), "\n\n".join(removed)

    def _short(self, blocks: Sequence[str], keep: int) -> dict[int, int]:
        """Return places and tokens of the short paragraphs that stay.

        Questions come first, then paragraphs between long ones, the ends, and others; of each kind those that
        are nearest to an end.
        """
        third, last = keep // 3, len(blocks) - 1
        asking = max(third, min(2 * keep, _QUESTION_TOKENS))
        inwards = sorted(range(len(blocks)), key=lambda index: min(index, last - index))
        is_long = [len(block) > asking * _PARAGRAPH_CHARS for block in blocks]
        questions = [index for index in inwards if blocks[index].rstrip().endswith(_QUESTION_MARKS)]
        between = [index for index in inwards[2:] if is_long[index - 1] and is_long[index + 1]]
        kinds = [(questions, asking), (between, asking), ([0], third), ([last], third), (inwards, keep // 4)]
        found: dict[int, int] = {}
        for places, share in kinds:
            left = min(share, max(keep, asking) - sum(found.values()))
            for index in places:
                if index in found or len(blocks[index]) > left * _PARAGRAPH_CHARS:
                    continue
                tokens = self._count(blocks[index])
                if tokens <= left:
                    found[index] = tokens
                    left -= tokens
        return found

    def _take(self, text: str, most: int, *, from_end: bool = False) -> str:
        """Return the part of a text with at most `most` tokens, cut at a line, or at a word in long lines."""
        size = min(len(text), most * _MOST_CHARS)
        text = text[len(text) - size :] if from_end else text[:size]
        while text and (tokens := self._count(text)) > most:
            size = min(max(1, len(text) * most // (tokens + 1)), len(text) - 1)
            cut = text[len(text) - size :] if from_end else text[:size]
            half = cut[: size // 2] if from_end else cut[size // 2 :]
            mark = "\n" if "\n" in half else " "
            if mark in cut:
                cut = cut[cut.index(mark) + 1 :] if from_end else cut[: cut.rindex(mark) + 1]
            text = cut
        return text


def _paragraphs(text: str, longest_line: int) -> list[str]:
    """Split a text at empty lines, and at every line end where lines have more characters than given."""
    blocks = _EMPTY_LINES.split(text.replace("\r\n", "\n").strip())
    found: list[str] = []
    for block in blocks:
        lines = block.split("\n")
        found += lines if max(map(len, lines)) > longest_line else [block]
    return found
