"""What went wrong, in the shape in which OpenAI's API tells it."""

from typing import Any

from e2llm.errors import ContextOverflowError, E2LLMError, StoreError
from e2llm.files import FULL_DISK_ERRORS

_WORDS = {
    "min_new_tokens": "min_tokens",
    "max_new_tokens": "max_tokens",
    "overflow='select'": 'overflow: "select"',
}
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """An answer that is an error.

    Args:
        status: HTTP status, 400 to 599.
        message: For the caller: what was got, what is allowed, what to change.
        code: A word for programs, as OpenAI has them.
        param: The request's field at fault.
        retry_after: Seconds after which to try again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.retry_after = retry_after

    @classmethod
    def of(cls, error: BaseException) -> "ApiError":
        """The problem that an exception is to the caller; what is not his to mend is not told."""
        if isinstance(error, ApiError):
            return error
        if isinstance(error, ContextOverflowError):
            message = _in_words_of_the_api(str(error))
            return cls(400, message, code="context_length_exceeded", param="messages")
        if getattr(error, "errno", None) in FULL_DISK_ERRORS or (
            isinstance(error, StoreError) and "is full" in str(error)
        ):
            return cls(507, "the server's disk is full; nothing was kept of this request", code="disk_full")
        if isinstance(error, StoreError):  # its message names a folder of the server
            return cls(500, "the server's store cannot be used; its log says more", code="store_unusable")
        if isinstance(error, E2LLMError):
            return cls(400, _in_words_of_the_api(str(error)), code="invalid_value")
        if isinstance(error, TimeoutError):
            return cls(504, "the request took longer than this server allows; send less", code="timeout")
        return cls(500, "the server failed; its log says more", code="internal_error")

    @property
    def body(self) -> dict[str, Any]:
        """`{"error": {"message", "type", "param", "code"}}`."""
        default = "server_error" if self.status >= 500 else "invalid_request_error"
        # What was got may hold characters that cannot be sent, such as lone surrogates.
        message = str(self).encode("utf-8", "backslashreplace").decode()
        kind = _TYPES.get(self.status, default)
        return {"error": {"message": message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """Headers that go with the status."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return headers | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})


def _in_words_of_the_api(message: str) -> str:
    """A library's message with the names that the API has for the same things."""
    for ours, theirs in _WORDS.items():
        message = message.replace(ours, theirs)
    return message
