"""A train and a validation part for sets published without one: by a hash, so it never changes."""

import hashlib

_VALIDATION_FRACTION = 0.1


def split_of(name: str) -> str:
    """`"validation"` for about a tenth of all names, else `"train"`.

    Split by document, never by question: questions on one text in both parts would leak it.

    Args:
        name: What names the document, for example an article's title.
    """
    digest = hashlib.sha256(name.encode("utf-8")).digest()
    return "validation" if int.from_bytes(digest[:8]) / 2**64 < _VALIDATION_FRACTION else "train"
