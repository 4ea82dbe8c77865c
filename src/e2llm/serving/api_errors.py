"""What went wrong, in the shape in which OpenAI's API tells it."""

from typing import Any

from e2llm.errors import ContextOverflowError, E2LLMError

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
            return cls(400, str(error), code="context_length_exceeded", param="messages")
        if isinstance(error, E2LLMError):
            return cls(400, str(error), code="invalid_value")
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
