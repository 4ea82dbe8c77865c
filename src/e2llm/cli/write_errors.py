"""Writing that failed, in the user's words: a full disk, a folder that may not be written to."""

import errno

from e2llm.files import FULL_DISK_ERRORS

_REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM)
# How the libraries that write weights and states put it.
_FULL_TEXTS = (
    "No space left on device", "File too large", "Disk quota exceeded", "PytorchStreamWriter failed",
    "inline_container.cc", "unexpected pos",
)  # fmt: skip


def write_problem(error: BaseException) -> str | None:
    """What to tell of an error that is one of writing; None for any other."""
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        number, place = getattr(at, "errno", None), getattr(at, "filename", None)
        subject = f"{place}: " if place else ""
        if number in FULL_DISK_ERRORS or any(text in str(at) for text in _FULL_TEXTS):
            limit = " or a limit on file sizes was met" if number == errno.EFBIG else ""
            return (
                f"{subject}the disk is full{limit}; free some room or name another place. What was saved "
                "before is whole"
            )
        if number in _REFUSED and place:
            reason = getattr(at, "strerror", None) or "not allowed"
            return f"{subject}{reason}; name another place, or change its permissions"
        at = at.__cause__ or at.__context__
    return None
