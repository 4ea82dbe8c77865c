"""Running the application under uvicorn, on a socket of its own."""

import logging
import socket
import sys

import uvicorn

from e2llm.errors import E2LLMError
from e2llm.inference.engine import Engine
from e2llm.serving.app import create_app
from e2llm.serving.backends import Backend
from e2llm.serving.settings import ServerSettings


def run_server(
    engine: Engine,
    settings: ServerSettings,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    backend: Backend | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM; running requests then get `shutdown_seconds` to finish.

    Args:
        engine: The model.
        settings: Limits and places.
        host: Address to listen on.
        port: 0 for a free one; the address is told on stderr.
        backend: Who decodes; by default this process.

    Raises:
        E2LLMError: If the address cannot be had.
    """
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING, stream=sys.stderr)
    logging.getLogger("e2llm.serving").setLevel(logging.INFO)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise E2LLMError(f"cannot listen on {host} port {port}: {error}; choose another --port") from error
    with listening:
        app = create_app(engine, settings, backend)
        shown = f"[{host}]" if family == socket.AF_INET6 else host
        print(
            f"e2llm serves {settings.model_name} at http://{shown}:{listening.getsockname()[1]}",
            file=sys.stderr,
        )
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,  # the application notes sizes itself
            server_header=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=max(1, round(settings.shutdown_seconds)),
            h11_max_incomplete_event_size=64 * 1024,
        )
        uvicorn.Server(config).run(sockets=[listening])
