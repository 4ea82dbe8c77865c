"""Errors in the shape of OpenAI's API."""

from typing import Any

from pydantic import BaseModel
from starlette.responses import JSONResponse

from e2llm.errors import ContextOverflowError, E2LLMError
from e2llm.files import FULL_DISK_ERRORS

_WORDS = {  # the library's names, and the API's for the same things
    "min_new_tokens": "min_tokens",
    "max_new_tokens": "max_tokens",
    "overflow='select'": 'overflow: "select"',
}
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_MAX_CHARS = 1000  # of a message, which may quote what a stranger sent


class ErrorBody(BaseModel):
    """The error."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorOut(BaseModel):
    """An error, in OpenAI's shape."""

    error: ErrorBody


class ApiError(Exception):
    """An error response.

    Args:
        status: HTTP status, 400 to 599.
        message: For the caller: the value received, what is allowed, what to do.
        code: A word for programs, from OpenAI's where one fits; by default that of the status.
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
        self.code = "invalid_value" if code is None and status == 400 else code
        self.param = param
        self.retry_after = retry_after

    @classmethod
    def of(cls, error: BaseException) -> "ApiError":
        """Return the error that the caller gets for an exception; faults of the server stay in its log."""
        if isinstance(error, ApiError):
            return error
        if isinstance(error, ContextOverflowError):
            message = _in_words_of_the_api(str(error))
            return cls(400, message, code="context_length_exceeded", param="messages")
        if getattr(error, "errno", None) in FULL_DISK_ERRORS:
            return cls(507, "the server's disk is full; it kept nothing of this request", code="disk_full")
        if isinstance(error, E2LLMError):
            return cls(400, _in_words_of_the_api(str(error)))
        if isinstance(error, TimeoutError):
            return cls(504, "the request took longer than this server allows; send less", code="timeout")
        return cls(500, "the server failed; see its log", code="internal_error")

    @property
    def body(self) -> dict[str, Any]:
        """`{"error": {"message", "type", "param", "code"}}`."""
        default = "server_error" if self.status >= 500 else "invalid_request_error"
        # The message may quote characters that cannot be sent, such as lone surrogates.
        message = str(self)[:_MAX_CHARS].encode("utf-8", "backslashreplace").decode()
        kind = _TYPES.get(self.status, default)
        return {"error": {"message": message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """Return the response, with the headers of its status."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body, self.status, headers)


def _in_words_of_the_api(message: str) -> str:
    """Return a library's message with the API's names for the same things."""
    for ours, theirs in _WORDS.items():
        message = message.replace(ours, theirs)
    return message
