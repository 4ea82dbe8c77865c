"""Several servers behind one address, by Ray Serve: each replica is a whole server, and they share a folder.

    RAY_USAGE_STATS_ENABLED=0 serve run e2llm.serving.ray_deployment:build model=smol folder=/var/lib/e2llm

`examples/serve_ray.yaml` is the same as a file. Contexts and encoded chunks are in the folder, so that any
replica answers about what any other one has read.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from starlette.types import ASGIApp, Receive, Scope, Send

from e2llm.errors import E2LLMError, MissingExtraError
from e2llm.inference.engine import Engine
from e2llm.serving.app import create_app
from e2llm.serving.backends import Backend
from e2llm.serving.keys import read_key_file
from e2llm.serving.settings import BACKEND_KEY_VARIABLE, LOOPBACK, ServerSettings
from e2llm.serving.vllm_backend import VllmBackend
from e2llm.serving.vllm_server import find_server

NAME = "e2llm"


def _split(value: Any) -> Any:
    """A list as the command line has it: its items with commas between them."""
    return [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_split)]


class DeploymentArguments(BaseModel):
    """What `serve run` takes as `name=value`, and a deployment file under `args`.

    Attributes:
        model: Folder, hub id, or `smol`.
        folder: Where contexts and encoded chunks are kept; an absolute path on a local disk of the machine
            that all replicas are on.
        num_replicas: Servers.
        num_cpus: Cores of each.
        num_gpus: GPUs of each; a share of one where several replicas use it.
        device: Such as cpu or cuda; by default a GPU if a replica has one.
        model_name: Name that clients use; by default the model's own.
        api_key_file: A file of hashed keys, read where the deployment is built.
        allowed_hosts: Names under which the servers are called; others than this machine's need keys. Empty
            for any.
        cors_origins: Pages elsewhere that may call.
        max_body_mb: Longest request body.
        max_batch: Answers that a replica decodes together.
        max_queue: Requests at work or waiting in a replica; more get status 429.
        timeout_seconds: Longest time for a request.
        shutdown_seconds: Time that running requests get when a replica is stopped.
        store_mb: Most of what was read to keep.
        backend: Who decodes: each replica, or a vLLM server. vLLM's key is in $E2LLM_BACKEND_API_KEY of the
            replicas.
        url: Where vLLM is.
        backend_model: Name of the decoder there.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: str = "smol"
    folder: Path
    num_replicas: int = Field(2, ge=1)
    num_cpus: float = Field(1, gt=0)
    num_gpus: float = Field(0, ge=0)
    device: str | None = None
    model_name: str | None = None
    api_key_file: Path | None = None
    allowed_hosts: Names = LOOPBACK
    cors_origins: Names = ()
    max_body_mb: int = Field(32, ge=1)
    max_batch: int = Field(16, ge=1)
    max_queue: int = Field(64, ge=1)
    timeout_seconds: float = Field(600, gt=0)
    shutdown_seconds: float = Field(30, ge=0)
    store_mb: int | None = Field(None, ge=1)
    backend: Literal["local", "vllm"] = "local"
    url: str | None = None
    backend_model: str | None = None

    @model_validator(mode="after")
    def _check(self) -> "DeploymentArguments":
        if not self.folder.is_absolute():
            raise E2LLMError(
                f"folder must be an absolute path, got {str(self.folder)!r}: replicas have working folders "
                "of their own"
            )
        is_local = bool(self.allowed_hosts) and set(self.allowed_hosts) <= set(LOOPBACK)
        if self.api_key_file is None and not is_local:
            raise E2LLMError(
                "allowed_hosts names others than this machine: give api_key_file (e2llm serve --new-api-key "
                "makes a key with its line)"
            )
        if (self.backend == "vllm") != (self.url is not None):
            raise E2LLMError("backend=vllm and url= go together: give both, or neither")
        if Path(self.model).is_dir():
            self.model = str(Path(self.model).resolve())  # replicas have working folders of their own
        return self

    def settings(self) -> ServerSettings:
        """Limits and places of each replica's server."""
        return ServerSettings(
            folder=self.folder,
            model_name=self.model_name or Path(self.model).name or self.model,
            api_keys=() if self.api_key_file is None else tuple(read_key_file(self.api_key_file)),
            allowed_hosts=self.allowed_hosts,
            cors_origins=self.cors_origins,
            max_body_bytes=self.max_body_mb * 2**20,
            max_batch=self.max_batch,
            max_queue=self.max_queue,
            timeout_seconds=self.timeout_seconds,
            shutdown_seconds=self.shutdown_seconds,
            store_mb=self.store_mb,
        )


class ReplicaApp:
    """An ASGI application that loads its model when it is started, in the process that then serves it.

    Args:
        arguments: Of the deployment.
        settings: Of the server, keys included.
    """

    def __init__(self, arguments: DeploymentArguments, settings: ServerSettings) -> None:
        self._arguments = arguments
        self._settings = settings
        self._app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a message on; the first one is the start."""
        if self._app is None:
            self._app = self._make()
        await self._app(scope, receive, send)

    def _make(self) -> ASGIApp:
        arguments = self._arguments
        server = None
        if arguments.url is not None:
            server = find_server(
                arguments.url,
                model=arguments.backend_model,
                api_key=os.environ.get(BACKEND_KEY_VARIABLE),
                timeout_seconds=arguments.timeout_seconds,
            )
        engine = Engine.from_pretrained(arguments.model, device=arguments.device)
        backend: Backend | None = None if server is None else VllmBackend(engine, server)
        return create_app(engine, self._settings, backend)


def load_serve() -> Any:
    """Import Ray Serve with Ray's reports home switched off.

    Raises:
        MissingExtraError: If it is not installed.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        from ray import serve
    except ImportError as error:
        raise MissingExtraError("ray[serve]", "ray") from error
    return serve


def build(arguments: DeploymentArguments) -> Any:
    """The application that Ray Serve runs: replicas of a server, to be reached at `/`.

    Args:
        arguments: Ray Serve makes them of `name=value` or of a file's `args`.

    Returns:
        What `serve.run` takes.

    Raises:
        E2LLMError: If the key file is none.
    """
    serve = load_serve()
    settings = arguments.settings()

    class Server:
        """A replica; all that it does is in its ASGI application."""

    deployment = serve.deployment(
        serve.ingress(ReplicaApp(arguments, settings))(Server),
        name=NAME,
        num_replicas=arguments.num_replicas,
        # More than are let in, so that those too many are told by the server, with the time to come back.
        max_ongoing_requests=2 * arguments.max_queue,
        graceful_shutdown_timeout_s=arguments.shutdown_seconds + 10,
        ray_actor_options={"num_cpus": arguments.num_cpus, "num_gpus": arguments.num_gpus},
    )
    return deployment.bind()
