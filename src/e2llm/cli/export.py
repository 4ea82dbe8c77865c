"""`e2llm export`: write a merged model that needs no base models, or its decoder alone."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from e2llm.cli.options import AsJson


def export(
    model: Annotated[str, typer.Argument(help="Folder, hub id, or 'smol'.")],
    output: Annotated[
        Path, typer.Argument(metavar="OUT", help="Folder to write; must not exist or be empty.")
    ],
    merged: Annotated[
        bool,
        typer.Option(
            "--merged", help="The decoder alone, as vLLM loads it; prints how to start vLLM with it."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write a model as one self-contained folder: LoRA merged, base weights included.

    Example:
        e2llm export runs/my-model/final exported/
        e2llm export runs/my-model/final decoder/ --merged
    """
    from e2llm.cli.output_folder import appearing, check_new, folder_bytes
    from e2llm.inference.engine import Engine
    from e2llm.modeling.checkpoints.save import save_decoder

    check_new(output)
    # LoRA cannot be merged into 4 bits: a decoder that was trained in them is loaded as it was published.
    engine = Engine.from_pretrained(model, device="cpu", quantization_config=None)
    with appearing(output) as staging:
        if merged:
            save_decoder(engine.model, engine.processor.tokenizer, staging)
        else:
            engine.model.save_pretrained(staging, self_contained=True)
            engine.processor.save_pretrained(staging)
    num_bytes = folder_bytes(output)
    told: dict[str, Any] = {"output": str(output), "num_bytes": num_bytes}
    kind = "merged and self-contained"
    if merged:
        kind = "the decoder alone, merged"
        told["launch"] = _launch_line(output.resolve(), Path(model).name or model, engine)
    if as_json:
        typer.echo(json.dumps(told))
        return
    typer.echo(f"{output}: {kind}, {num_bytes / 1e6:.1f} MB")
    if merged:
        typer.echo(told["launch"] or "no chat template: e2llm serve --url cannot use this decoder")


def _launch_line(folder: Path, name: str, engine: Any) -> str | None:
    """How to start vLLM; None where its decoder's tokenizer has no chat template."""
    from e2llm.errors import E2LLMError
    from e2llm.serving.vllm_launch import launch_line

    dtype = str(engine.model.get_input_embeddings().weight.dtype).removeprefix("torch.")
    try:
        return launch_line(folder, name, engine.processor.tokenizer, dtype)
    except E2LLMError:
        return None
