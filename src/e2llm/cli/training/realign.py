"""`e2llm realign`: give a trained model another encoder."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from e2llm.cli.options import MODEL_HELP, AsJson, Settings
from e2llm.cli.printing import echo, print_json
from e2llm.documents import existing_path
from e2llm.files import check_folder_place
from e2llm.model_names import check_model_name


def realign(
    model: Annotated[str, typer.Argument(help=f"The trained model: {MODEL_HELP}")],
    encoder: Annotated[str, typer.Option(help="The new encoder: hub id or local folder.")],
    records: Annotated[list[Path], typer.Option(help="Records to train on; may be repeated.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write to.")],
    validation: Annotated[
        list[Path] | None, typer.Option(help="Records to measure on; by default a share of --records.")
    ] = None,
    match_steps: Annotated[
        int,
        typer.Option(min=0, help="Steps to teach the new adapter the old soft tokens, without the decoder."),
    ] = 300,
    steps: Annotated[
        int, typer.Option(min=1, help="Steps on both objectives, with the decoder frozen.")
    ] = 200,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Give a trained model another encoder, keep its decoder, and print the losses before and after.

    The same command continues an interrupted run.

    Example:
        e2llm realign smol --encoder BAAI/bge-small-en-v1.5 --records train.jsonl -o realigned
    """
    check_folder_place(output)
    for file in [*records, *(validation or [])]:
        existing_path(file)
    check_model_name(model)
    from e2llm.modeling.checkpoints.sources import find_model
    from e2llm.training.realigning import realign_model
    from e2llm.training.recipe import merge_mappings, parse_override, validate, with_value

    find_model(encoder)
    content = recipe_of(model, encoder, output, steps)
    content["data"] = {
        "train": [{"path": str(file.absolute())} for file in records],
        "validation": [{"path": str(file.absolute())} for file in validation or []],
    }
    for setting in settings or []:
        _, keys, value = parse_override(setting, [])
        content = merge_mappings(content, with_value(content, keys, value, ".".join(keys)))
    result = realign_model(validate(content, "realign"), model, match_steps=match_steps)
    if as_json:
        print_json({**dataclasses.asdict(result), "folder": str(result.folder)})
        return
    last = result.trained[max(result.trained)] if result.trained else result.matched
    echo(f"{result.folder}: held-out loss")
    for name in result.old:
        share = result.recovered.get(name)
        recovered = "nothing was lost" if share is None else f"{share:.0%} of what was lost is recovered"
        echo(
            f"  {name.removesuffix('_loss'):<14} was {result.old[name]:.3f}, swapped "
            f"{result.fresh[name]:.3f}, matched {result.matched[name]:.3f}, trained {last[name]:.3f}: "
            f"{recovered}"
        )


def recipe_of(model: str, encoder: str, output: Path, steps: int) -> dict[str, Any]:
    """Return a recipe without data for both objectives, with the model's adapter and chunking."""
    from e2llm.modeling.checkpoints.sources import resolve_source
    from e2llm.modeling.configuration import E2LLMConfig
    from e2llm.modeling.processor import E2LLMProcessor

    source = resolve_source(model)
    config, processor = E2LLMConfig.from_pretrained(source), E2LLMProcessor.from_pretrained(source)
    every = max(1, steps // 5)
    adapter = {"kind": config.adapter, "max_soft_tokens": config.max_soft_tokens}
    objectives = {"soft_tokens": [config.max_soft_tokens]}
    if config.adapter == "pooling":
        adapter["finest_rate"] = config.finest_rate
        objectives = {}
    return {
        "name": output.name or "realigned",
        "output": str(output),
        "encoder": {"source": encoder, "mode": "frozen"},
        "decoder": {"source": model, "mode": "frozen"},
        "adapter": adapter,
        "chunking": {"chunk_size_chars": processor.chunk_size_chars, "kind": processor.chunk_kind},
        "objectives": objectives,
        "train": {"steps": steps, "evaluate_every_steps": every, "save_every_steps": every},
    }
