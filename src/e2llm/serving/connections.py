"""Connections that keep the server waiting are closed: uvicorn itself waits for headers without end."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


def patient_protocol(header_seconds: float) -> type[H11Protocol]:
    """A protocol for uvicorn that closes a connection whose next request does not come in time.

    Args:
        header_seconds: From the connection's beginning, or a request's first byte, to the end of its headers.
    """

    class PatientProtocol(H11Protocol):
        """HTTP/1.1 with a limit on the time that headers take."""

        _waiting: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._is_at_work():
                self._wait_no_more()
            elif self._waiting is None:
                self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._wait_no_more()
            super().connection_lost(exc)

        def _is_at_work(self) -> bool:
            """Whether a request's headers have come and its answer has not gone."""
            return self.cycle is not None and not self.cycle.response_complete

        def _wait(self) -> None:
            self._waiting = self.loop.call_later(header_seconds, self._give_up)

        def _wait_no_more(self) -> None:
            if self._waiting is not None:
                self._waiting.cancel()
                self._waiting = None

        def _give_up(self) -> None:
            self._waiting = None
            if not self._is_at_work() and not self.transport.is_closing():
                self.transport.close()

    return PatientProtocol
