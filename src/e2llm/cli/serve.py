"""`e2llm serve`: serve a model over HTTP with OpenAI's API."""

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from e2llm.cli.options import AsJson, Device, Settings, split_settings
from e2llm.cli.printing import echo, print_json
from e2llm.model_names import check_model_name

if TYPE_CHECKING:
    from e2llm.serving.settings import ServerSettings

KEY_VARIABLE = "E2LLM_API_KEY"
BackendUrl = Annotated[
    str | None,
    typer.Option(help="Decode with the vLLM server at this address, such as http://127.0.0.1:8001."),
]
BackendModel = Annotated[str | None, typer.Option(help="Name of the decoder in vLLM, if it serves several.")]


def serve(
    model: Annotated[str, typer.Argument(help="Folder, hub id, or 'smol'.")] = "smol",
    host: Annotated[
        str, typer.Option(help="Address to listen on; one that other machines can reach needs an API key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for a free one.")] = 8000,
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Keep contexts and encoded chunks here; by default they are lost when the server stops."
        ),
    ] = None,
    model_name: Annotated[
        str | None, typer.Option(help="Name that clients use; by default the model's own.")
    ] = None,
    device: Device = None,
    api_key: Annotated[
        list[str] | None,
        typer.Option(help=f"API key that callers must send; may be repeated, or set in ${KEY_VARIABLE}."),
    ] = None,
    api_key_file: Annotated[Path | None, typer.Option(help="File with one hashed key per line.")] = None,
    new_api_key: Annotated[
        bool, typer.Option("--new-api-key", help="Print a new key and its line for the key file, and stop.")
    ] = False,
    allowed_host: Annotated[
        list[str] | None, typer.Option(help="Host name that requests may use, such as a proxy's.")
    ] = None,
    url: BackendUrl = None,
    backend_model: BackendModel = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Serve a model: OpenAI's API with contexts of any length, and a web page at /.

    --set changes limits, such as max_batch=8, max_queue=128, timeout_seconds=60; docs/serving.md lists them.

    Examples:
        e2llm serve smol --port 8000 --folder kept/

        e2llm serve runs/my-model/final --url http://127.0.0.1:8001
    """
    check_framework()
    if new_api_key:
        print_new_key(as_json)
        return
    if backend_model is not None and url is None:
        raise typer.BadParameter("--backend-model needs --url, the server of that decoder; add --url")
    limits = server_settings(
        model_name or Path(model).name or model, host, folder, api_key, api_key_file, allowed_host, settings
    )
    check_model_name(model)
    from e2llm.inference.engine import Engine
    from e2llm.serving.app import listen, run_server
    from e2llm.serving.vllm_backend import VllmBackend, find_server

    timeout = limits.timeout_seconds
    server = None if url is None else find_server(url, model=backend_model, timeout_seconds=timeout)
    listening = listen(host, port)  # before the slow loading of the model
    engine = Engine.from_pretrained(model, device=device)
    backend = None if server is None else VllmBackend(engine, server)
    on_start = partial(print_address, limits.model_name) if as_json else None
    run_server(engine, limits, listening, backend=backend, on_start=on_start)


def print_address(model_name: str, url: str) -> None:
    """Print the server's address and model name as JSON."""
    print_json({"url": url, "model": model_name}, indent=None)


def check_framework() -> None:
    """Raise `MissingExtraError` if the libraries of the extra `serve` are not installed."""
    from e2llm.errors import MissingExtraError

    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("fastapi", "serve") from error


def print_new_key(as_json: bool) -> None:
    """Create a key, and print it with its line for the key file."""
    from e2llm.serving.http.keys import key_line, new_key

    key = new_key()
    line = key_line(key)
    if as_json:
        print_json({"key": key, "line": line}, indent=None)
    else:
        echo(f"{key}\n{line}")


def server_settings(
    model_name: str,
    host: str,
    folder: Path | None,
    api_key: list[str] | None,
    api_key_file: Path | None,
    allowed_host: list[str] | None,
    settings: list[str] | None,
) -> "ServerSettings":
    """Return the server's settings; raise `E2LLMError` if other machines can reach it without a key."""
    from e2llm.errors import E2LLMError
    from e2llm.serving.http.keys import hash_key, read_key_file
    from e2llm.serving.settings import LOOPBACK, ServerSettings

    given = [*(api_key or []), *filter(None, [os.environ.get(KEY_VARIABLE)])]
    keys = [hash_key(key) for key in given]
    if api_key_file is not None:
        keys += read_key_file(api_key_file)
    if host not in LOOPBACK and not keys:
        raise E2LLMError(
            f"--host {host} is open to other machines and needs a key; give --api-key, --api-key-file or "
            f"${KEY_VARIABLE}, or use 127.0.0.1"
        )
    hosts = [*(allowed_host or []), *(LOOPBACK if host in LOOPBACK else ())]
    values = {"folder": folder, "model_name": model_name, "api_keys": keys, "allowed_hosts": hosts}
    limits = split_settings(settings)
    if twice := values.keys() & limits.keys():
        raise typer.BadParameter(f"--set {min(twice)}: use the separate option for it, see --help")
    return ServerSettings(**values, **limits)
