"""Your own texts: a file, or a folder of files of every format that is read."""

from pathlib import Path

from e2llm.data.data_set import Conversion, Records, data_set
from e2llm.documents import LeftOut, iter_documents, list_folder


@data_set(
    "text",
    description="your own texts: every document becomes one context to restate",
    licence="that of your texts",
    home="any folder of yours",
    layout="a document, or a folder with documents at any depth",
)
def text(run: Conversion, *, encoding: str = "") -> Records:
    """Yield one text-only record per document; what `e2llm ask` leaves out of a folder is left out.

    Args:
        run: The conversion.
        encoding: The encoding of `.txt` and `.md` files; by default their bytes show it.
    """
    if not run.source.exists():
        raise run.missing(run.source)
    is_folder = run.source.is_dir()
    root = run.source if is_folder else run.source.parent
    left_out: list[LeftOut] = []
    if encoding:
        files = [file for file in list_folder(root).files if file.suffix.lower() in (".txt", ".md")]
        texts = ((file, run.text(file, encoding)) for file in (files if is_folder else [run.source]))
    else:
        texts = ((Path(item.name), item.text) for item in iter_documents([run.source], left_out))
    for path, content in texts:
        if content.strip():
            yield run.record(content, id=path.relative_to(root).as_posix())
        else:
            run.skip("empty file")
    for item in left_out:
        run.skip(f"{item.name}: {item.reason}" if item.is_loss else f"{item.reason} file")
