"""`e2llm join`: join a pretrained encoder and a pretrained decoder with a new adapter."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from e2llm.cli.options import AsJson, parse_layers
from e2llm.cli.printing import echo, print_json

if TYPE_CHECKING:
    from e2llm.modeling.processor import E2LLMProcessor


def join(
    encoder: Annotated[str, typer.Argument(help="Hub id or folder of a text encoder.")],
    decoder: Annotated[str, typer.Argument(help="Hub id, folder or .gguf file of a decoder LLM.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FOLDER", help="Folder to write, new or empty.")
    ],
    texts: Annotated[
        Path | None,
        typer.Option(help="Text file, or records in JSONL, to fit the adapter's initial weights to."),
    ] = None,
    adapter: Annotated[str, typer.Option(help="pooling, attention or mlp.")] = "pooling",
    layers: Annotated[
        str | None, typer.Option(help="Encoder layers to read, such as 0,3,6; 0 is the embeddings.")
    ] = None,
    finest_rate: Annotated[int, typer.Option(help="Encoder tokens per kept state: 1, 2, 4, ...")] = 2,
    bidirectional: Annotated[
        bool, typer.Option("--bidirectional", help="Let a causal encoder see later tokens.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Join an encoder and a decoder with a new, untrained adapter.

    The folder refers to both and copies no weights. Until the adapter is trained, answers use raw text.

    Example:
        e2llm join sentence-transformers/all-MiniLM-L6-v2 HuggingFaceTB/SmolLM2-135M-Instruct -o joined/
    """
    from e2llm.cli.output_folder import appearing, check_new, folder_bytes
    from e2llm.errors import E2LLMError
    from e2llm.modeling.model import E2LLMForConditionalGeneration
    from e2llm.modeling.processor import E2LLMProcessor
    from e2llm.modeling.ridge import init_adapter

    check_new(output)
    chosen = None if layers is None else parse_layers(layers, "--layers")
    if texts is not None and adapter != "pooling":
        raise E2LLMError(f"--texts works only with --adapter pooling, got {adapter}; leave --texts out")
    model = E2LLMForConditionalGeneration.from_parts(
        encoder,
        decoder,
        adapter=adapter,
        encoder_layers=chosen,
        encoder_attention="bidirectional" if bidirectional else "as_trained",
        finest_rate=finest_rate,
    )
    processor = E2LLMProcessor.from_parts(encoder, decoder)
    fit = None if texts is None else init_adapter(model, processor, _chunks_of(texts, processor))
    with appearing(output) as staging:
        model.save_pretrained(staging)
        processor.save_pretrained(staging)
    num_bytes = folder_bytes(output)
    if as_json:
        facts = {"adapter": model.config.adapter, "encoder_layers": model.config.encoder_layers}
        ridge = None if fit is None else vars(fit)
        print_json({"output": str(output), "num_bytes": num_bytes, **facts, "ridge": ridge}, indent=None)
        return
    echo(f"{output}: {encoder} and {decoder}, {num_bytes / 1e6:.1f} MB; not trained yet")
    echo(str(fit) if fit else "the adapter's weights are random; --texts FILE fits them to a text")


def _chunks_of(path: Path, processor: "E2LLMProcessor", most: int = 400) -> list[str]:
    """Return at most `most` chunks, spread evenly over texts or records."""
    from e2llm.documents import documents_of
    from e2llm.records import read_records

    if path.suffix == ".jsonl":
        contexts = list(dict.fromkeys(record.context for record in read_records(path)))
    else:
        contexts = [document.text for document in documents_of(path)]
    chunks = [chunk.text for context in contexts for chunk in processor.split(context)]
    step = max(1, len(chunks) // most)
    return chunks[::step][:most]
