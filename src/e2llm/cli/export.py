"""`e2llm export`: write a self-contained model with LoRA merged, or its decoder alone."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from e2llm.cli.options import AsJson
from e2llm.cli.printing import echo, print_json
from e2llm.model_names import check_model_name


def export(
    model: Annotated[str, typer.Argument(help="Folder, hub id, or 'smol'.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write, new or empty.")],
    merged: Annotated[
        bool,
        typer.Option(
            "--merged", help="Write only the decoder, for vLLM, and print the command that serves it."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write a model as one self-contained folder, with LoRA merged and base weights included.

    Example:
        e2llm export runs/my-model/final exported/
        e2llm export runs/my-model/final decoder/ --merged
    """
    from e2llm.cli.output_folder import appearing, check_new, folder_bytes

    check_new(output)
    check_model_name(model)
    from e2llm.inference.engine import Engine
    from e2llm.modeling.checkpoints.save import save_decoder

    # LoRA cannot be merged into 4-bit weights, so a decoder that was trained in 4 bits is loaded unquantized.
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
        dtype = str(engine.model.get_input_embeddings().weight.dtype).removeprefix("torch.")
        told["launch"] = launch_line(output.resolve(), Path(model).name or model, dtype)
    if as_json:
        print_json(told, indent=None)
        return
    echo(f"{output}: {kind}, {num_bytes / 1e6:.1f} MB")
    if merged:
        echo(told["launch"])


def launch_line(folder: Path, name: str, dtype: str) -> str:
    """Return the command that makes vLLM serve an exported decoder to this machine only.

    Args:
        folder: The exported decoder.
        name: Its name in vLLM.
        dtype: Precision of its weights and of soft tokens, such as `bfloat16`.
    """
    options = f"--dtype {dtype} --enable-prompt-embeds --host 127.0.0.1 --port 8001"
    return shlex.join(["vllm", "serve", str(folder), "--served-model-name", name, *options.split()])
