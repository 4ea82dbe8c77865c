"""Text and attachments of e-mail, by the standard library."""

import codecs
import email
import email.policy
import mimetypes
import re
from collections.abc import Iterator
from email.message import EmailMessage

from e2llm.documents.document import Part
from e2llm.documents.faults import damage_of
from e2llm.documents.markup import html_text
from e2llm.errors import E2LLMError

_HEADERS = ("From", "To", "Cc", "Date", "Subject")
_MAIL_START = re.compile(rb"(?:\A|\r?\n\r?\n)From [^\n]*\n")


def read_email(data: bytes, name: str) -> Iterator[Part]:
    """Yield a message: sender, receivers, date, subject, text, and the names of its attachments."""
    with damage_of(name, "an e-mail"):
        yield "", _message_text(_parse(data))


def read_mailbox(data: bytes, name: str) -> Iterator[Part]:
    """Yield the messages of a mailbox (mbox)."""
    for number, message in enumerate(_messages(data, name), 1):
        with damage_of(name, "a mailbox"):
            yield f"message {number}", _message_text(_parse(message)) + "\n\n"


def attachments_of(data: bytes, name: str, *, is_mailbox: bool) -> Iterator[tuple[str, bytes]]:
    """Yield the attachments of a message, or of all messages of a mailbox: name and bytes.

    The name is such as `mail.eml/report.pdf`, or `old.mbox/message 3/report.pdf`.
    """
    messages = _messages(data, name) if is_mailbox else [data]
    for number, message in enumerate(messages, 1):
        place = f"{name}/message {number}" if is_mailbox else name
        with damage_of(name, "an e-mail"):
            attachments = [*_parse(message).iter_attachments()]
        for index, item in enumerate(attachments, 1):
            yield f"{place}/{_name_of(item, index)}", _bytes_of(item)


def _messages(data: bytes, name: str) -> list[bytes]:
    starts = [*_MAIL_START.finditer(data)]
    if not starts:
        raise E2LLMError(f"{name}: no line begins with 'From ', as each message of a mailbox does")
    ends = [*(item.start() for item in starts[1:]), len(data)]
    return [data[start.end() : end] for start, end in zip(starts, ends, strict=True)]


def _parse(data: bytes) -> EmailMessage:
    return email.message_from_bytes(data, _class=EmailMessage, policy=email.policy.default)


def _message_text(message: EmailMessage) -> str:
    lines = [f"{name}: {' '.join(str(message[name]).split())}" for name in _HEADERS if message[name]]
    body = message.get_body(("plain", "html"))
    if body is not None:
        text = body.get_content()
        text = html_text(text) if body.get_content_subtype() == "html" else text
        lines += ["", text.replace("\r\n", "\n").strip()]
    if names := [_name_of(item, index) for index, item in enumerate(message.iter_attachments(), 1)]:
        lines += ["", f"Attachments: {', '.join(names)}"]
    return "\n".join(lines)


def _name_of(part: EmailMessage, index: int) -> str:
    """The file name of an attachment, without folders; a number and the suffix of its type without one."""
    kind = part.get_content_type()
    suffix = ".eml" if kind == "message/rfc822" else mimetypes.guess_extension(kind) or ""
    given = (part.get_filename() or "").replace("\\", "/").rsplit("/", 1)[-1]
    name = "".join(mark for mark in given if mark.isprintable()) or f"attachment {index}"
    return name if "." in name or not suffix else name + suffix


def _bytes_of(part: EmailMessage) -> bytes:
    """The bytes of an attachment; a text that states its encoding becomes UTF-8 with its mark."""
    if part.is_multipart():  # a message
        inner = part.get_payload()
        return b"".join(item.as_bytes() for item in inner)  # type: ignore[union-attr]
    data = part.get_payload(decode=True)
    assert isinstance(data, bytes)
    if part.get_content_maintype() == "text" and (charset := part.get_content_charset()):
        try:
            return codecs.BOM_UTF8 + data.decode(charset).encode()
        except (LookupError, UnicodeError):
            pass
    return data
