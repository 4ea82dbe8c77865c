"""`e2llm serve`: answer over HTTP, in the protocol of OpenAI's API."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from e2llm.cli.dial import FinestRateOption
from e2llm.serving.settings import BACKEND_KEY_VARIABLE, LOOPBACK

KEY_VARIABLE = "E2LLM_API_KEY"
BACKENDS = ("local", "vllm")


def serve(
    model: Annotated[str, typer.Argument(help="Folder, hub id, or 'smol'.")] = "smol",
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than this machine's need an API key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for a free one.")] = 8000,
    folder: Annotated[
        Path | None,
        typer.Option(help="Keep contexts and what was read here; by default they end with the server."),
    ] = None,
    model_name: Annotated[
        str | None, typer.Option(help="Name that clients use; by default the model's own.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Such as cpu or cuda.")] = None,
    finest_rate: FinestRateOption = None,
    api_key: Annotated[
        list[str] | None,
        typer.Option(help=f"A key to let in; may be given several times, or in ${KEY_VARIABLE}."),
    ] = None,
    api_key_file: Annotated[Path | None, typer.Option(help="A file of hashed keys.")] = None,
    new_api_key: Annotated[
        bool, typer.Option("--new-api-key", help="Make a key, print it with its line for the file, and stop.")
    ] = False,
    allowed_host: Annotated[
        list[str] | None, typer.Option(help="A name under which the server is called, such as a proxy's.")
    ] = None,
    cors_origin: Annotated[
        list[str] | None, typer.Option(help="A page elsewhere that may call, such as https://example.org.")
    ] = None,
    max_body_mb: Annotated[int, typer.Option(min=1, help="Longest request body.")] = 32,
    max_context_chars: Annotated[int, typer.Option(min=1, help="Longest context.")] = 16_000_000,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer that may be asked for.")] = 4096,
    max_batch: Annotated[int, typer.Option(min=1, help="Answers decoded together.")] = 16,
    max_queue: Annotated[int, typer.Option(min=1, help="Requests at work or waiting; more get 429.")] = 64,
    timeout: Annotated[float, typer.Option(min=1, help="Longest time for a request, in seconds.")] = 600,
    shutdown_seconds: Annotated[
        float, typer.Option(min=0, help="Time that running requests get when the server is stopped.")
    ] = 30,
    prefix_cache_mb: Annotated[
        int,
        typer.Option(min=0, help="Memory for beginnings of prompts that questions about a context share."),
    ] = 512,
    store_mb: Annotated[int | None, typer.Option(min=1, help="Most of what was read to keep.")] = None,
    backend: Annotated[
        str, typer.Option(help="Who decodes: local (this process) or vllm (the server at --url).")
    ] = "local",
    url: Annotated[str | None, typer.Option(help="Where vLLM is, such as http://127.0.0.1:8001.")] = None,
    backend_model: Annotated[
        str | None, typer.Option(help="Name of the decoder in vLLM; by default the one it tells.")
    ] = None,
    backend_api_key: Annotated[
        str | None, typer.Option(help="vLLM's API key, where it asks for one.", envvar=BACKEND_KEY_VARIABLE)
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the address, or the new key, as JSON.")
    ] = False,
) -> None:
    """Serve a model: OpenAI's API with contexts of any length, and a page at /.

    Example:
        e2llm serve smol --port 8000 --folder kept/
        e2llm serve runs/my-model/final --backend vllm --url http://127.0.0.1:8001
    """
    from e2llm.errors import E2LLMError, MissingExtraError
    from e2llm.inference.engine import Engine

    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("fastapi", "serve") from error
    from e2llm.serving.keys import hash_key, key_line, new_key, read_key_file
    from e2llm.serving.run import listen, run_server
    from e2llm.serving.settings import ServerSettings

    if new_api_key:
        key = new_key()
        line = key_line(key)
        typer.echo(json.dumps({"key": key, "line": line}) if as_json else f"{key}\n{line}")
        return
    keys = [hash_key(key) for key in api_key or []]
    if given := os.environ.get(KEY_VARIABLE):
        keys.append(hash_key(given))
    if api_key_file is not None:
        keys += read_key_file(api_key_file)
    if host not in LOOPBACK and not keys:
        raise E2LLMError(
            f"--host {host} can be reached from other machines: give --api-key, --api-key-file or "
            f"${KEY_VARIABLE}, or stay with 127.0.0.1"
        )
    names = [*(allowed_host or []), *(LOOPBACK if host in LOOPBACK else ())]
    settings = ServerSettings(
        folder=folder,
        model_name=model_name or Path(model).name or model,
        api_keys=tuple(keys),
        allowed_hosts=tuple(names),
        cors_origins=tuple(cors_origin or ()),
        max_body_bytes=max_body_mb * 2**20,
        max_context_chars=max_context_chars,
        max_new_tokens=max_new_tokens,
        max_batch=max_batch,
        max_queue=max_queue,
        timeout_seconds=timeout,
        shutdown_seconds=shutdown_seconds,
        prefix_cache_mb=prefix_cache_mb,
        store_mb=store_mb,
    )
    server = _find_backend(backend, url, backend_model, backend_api_key, timeout)
    listening = listen(host, port)  # before the model is loaded, which may take long
    engine = Engine.from_pretrained(model, device=device, finest_rate=finest_rate)
    decoder = None
    if server is not None:
        from e2llm.serving.vllm_backend import VllmBackend

        decoder = VllmBackend(engine, server)

    def tell(url: str) -> None:
        print(json.dumps({"url": url, "model": settings.model_name}), flush=True)

    run_server(engine, settings, listening, backend=decoder, on_start=tell if as_json else None)


def _find_backend(
    backend: str, url: str | None, model: str | None, api_key: str | None, timeout_seconds: float
) -> Any:
    """Where another server decodes; None for this process."""
    from e2llm.errors import E2LLMError

    if backend not in BACKENDS:
        raise typer.BadParameter(f"--backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if backend == "local":
        given = [name for name, value in (("--url", url), ("--backend-model", model)) if value is not None]
        if given:
            raise E2LLMError(f"{given[0]} goes with --backend vllm; add it, or leave {given[0]} out")
        return None
    if url is None:
        raise E2LLMError("--backend vllm needs --url, the address of vLLM, such as http://127.0.0.1:8001")
    from e2llm.serving.vllm_server import find_server

    return find_server(url, model=model, api_key=api_key, timeout_seconds=timeout_seconds)
