"""Words for messages."""


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, such as `1 chunk`, `1,234 chunks` or `2 copies`."""
    if number != 1:
        noun = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number:,} {noun}"
