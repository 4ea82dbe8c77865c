"""Run several servers behind one address with Ray Serve; each replica is a server, and all share a folder.

    RAY_USAGE_STATS_ENABLED=0 serve run e2llm.serving.ray_deployment:build model=smol folder=/var/lib/e2llm

`examples/serve_ray.yaml` is the same as a file. Contexts and encoded chunks are in the folder, so that any
replica answers about texts that another one has read.
"""

import os
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator
from starlette.types import ASGIApp, Receive, Scope, Send

from e2llm.errors import E2LLMError, MissingExtraError
from e2llm.inference.engine import Engine
from e2llm.serving.app import create_app
from e2llm.serving.http.keys import read_key_file
from e2llm.serving.settings import LOOPBACK, Hosts, ServerSettings
from e2llm.serving.vllm_backend import VllmBackend, find_server


class DeploymentArguments(ServerSettings):
    """The arguments of `serve run`, as `name=value`, or of a deployment file under `args`.

    All settings of a server are arguments too; each replica has them. `model_name` is by default the model's.

    Attributes:
        folder: An absolute path on a local disk of the machine that all replicas are on.
        allowed_hosts: Names under which the servers are called; others than this machine's need keys. Empty
            for any.
        model: Folder, hub id, or `smol`.
        num_replicas: Servers.
        num_cpus: Cores of each.
        num_gpus: GPUs of each; a fraction where several replicas share one.
        device: Such as cpu or cuda; by default a GPU if a replica has one.
        api_key_file: A file of hashed keys, read where the deployment is built.
        url: Address of a vLLM server that decodes for all replicas; by default each decodes for itself.
        backend_model: vLLM's name for the decoder.
    """

    folder: Path
    allowed_hosts: Hosts = LOOPBACK
    model_name: str = ""
    model: str = "smol"
    num_replicas: int = Field(2, ge=1)
    num_cpus: float = Field(1, gt=0)
    num_gpus: float = Field(0, ge=0)
    device: str | None = None
    api_key_file: Path | None = None
    url: str | None = None
    backend_model: str | None = None

    @model_validator(mode="after")
    def _check(self) -> "DeploymentArguments":
        if not self.folder.is_absolute():
            raise E2LLMError(
                f"folder must be an absolute path, got {str(self.folder)!r}: replicas have different working "
                "folders"
            )
        is_local = bool(self.allowed_hosts) and set(self.allowed_hosts) <= set(LOOPBACK)
        if self.api_key_file is None and not is_local:
            raise E2LLMError(
                f"allowed_hosts is {', '.join(self.allowed_hosts) or 'empty'}, so other machines may "
                "connect; give api_key_file (e2llm serve --new-api-key makes a key with its line)"
            )
        if self.backend_model is not None and self.url is None:
            raise E2LLMError("backend_model names a decoder of the server at url; give url too")
        return self

    def settings(self) -> ServerSettings:
        """Return the settings of each replica's server."""
        values = {name: getattr(self, name) for name in ServerSettings.model_fields}
        values["model_name"] = self.model_name or Path(self.model).name or self.model
        if self.api_key_file is not None:
            values["api_keys"] = tuple(read_key_file(self.api_key_file))
        return ServerSettings(**values)


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
        arguments, server = self._arguments, None
        if arguments.url is not None:
            seconds = arguments.timeout_seconds
            server = find_server(arguments.url, model=arguments.backend_model, timeout_seconds=seconds)
        engine = Engine.from_pretrained(arguments.model, device=arguments.device)
        return create_app(engine, self._settings, None if server is None else VllmBackend(engine, server))


def build(arguments: DeploymentArguments) -> Any:
    """Return the application that Ray Serve runs: replicas of a server, reachable at `/`.

    Args:
        arguments: Ray Serve makes them of `name=value` or of a file's `args`.

    Raises:
        MissingExtraError: If Ray Serve is not installed.
        E2LLMError: If the key file is invalid.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        from ray import serve
    except ImportError as error:
        raise MissingExtraError("ray[serve]", "ray") from error
    settings = arguments.settings()
    if Path(arguments.model).is_dir():  # each replica has its own working folder
        arguments = arguments.model_copy(update={"model": str(Path(arguments.model).resolve())})

    class Server:
        """A replica; its work is in its ASGI application."""

    deployment = serve.deployment(
        serve.ingress(ReplicaApp(arguments, settings))(Server),
        name="e2llm",
        num_replicas=arguments.num_replicas,
        # More than the server lets in, so that it can refuse the excess and say when to try again.
        max_ongoing_requests=2 * arguments.max_queue,
        graceful_shutdown_timeout_s=arguments.shutdown_seconds + 10,
        ray_actor_options={"num_cpus": arguments.num_cpus, "num_gpus": arguments.num_gpus},
    )
    return deployment.bind()
