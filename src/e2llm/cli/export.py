"""`e2llm export`: write a merged model that needs no base models."""

from pathlib import Path
from typing import Annotated

import typer


def export(
    model: Annotated[str, typer.Argument(help="Folder, hub id, or 'mini'.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
) -> None:
    """Write a model as one self-contained folder: LoRA merged, base weights included.

    Example:
        e2llm export runs/my-model/final exported/
    """
    from e2llm.errors import E2LLMError
    from e2llm.modeling import E2LLMForConditionalGeneration, E2LLMProcessor

    if dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise typer.BadParameter(f"--dtype must be auto, float32, bfloat16 or float16, got {dtype!r}")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise E2LLMError(f"{output} exists and is not an empty folder; name another one")
    loaded = E2LLMForConditionalGeneration.from_pretrained(model, **({} if dtype == "auto" else {"dtype": dtype}))
    processor = E2LLMProcessor.from_pretrained(model)
    loaded.save_pretrained(output, self_contained=True)
    processor.save_pretrained(output)
    typer.echo(f"{output}: merged and self-contained")
