"""Your own texts: a document, or a folder of documents."""

from pathlib import Path

from e2llm.data.data_set import Conversion, Records, data_set
from e2llm.documents import READERS, LeftOut, iter_documents
from e2llm.file_bytes import NoTextError

_TABLES = frozenset({".csv", ".tsv", ".json", ".jsonl", ".ipynb", ".xlsx", ".xlsm"})


@data_set(
    "text",
    description="your own texts: every document becomes one context to restate",
    licence="that of your texts",
    home="any folder of yours",
    layout="a document, or a folder with documents (.txt, .md, .pdf, .docx, ...) at any depth",
)
def text(run: Conversion, *, encoding: str = "") -> Records:
    """Yield one text-only record per document; hidden files, tables and program text in folders are skipped.

    Args:
        run: The conversion.
        encoding: The encoding of plain texts; by default their bytes show it, and other formats are read.
    """
    root = run.source.parent if run.source.is_file() else run.source
    files = [run.source] if run.source.is_file() else _documents_in(root)
    if not files:
        raise run.error("no document in this folder")
    left_out: list[LeftOut] = []
    for path in files:
        try:
            if encoding:
                texts = [(path, run.text(path, encoding))]
            else:
                texts = [(Path(item.name), item.text) for item in iter_documents([path], left_out)]
        except NoTextError as error:
            if error.reason != "empty":
                raise
            texts = [(path, "")]
        for name, content in texts:
            if content.strip():
                yield run.record(content, id=name.relative_to(root).as_posix())
            else:
                run.skip("empty file")
    for item in left_out:
        run.skip(f"{item.name}: {item.reason}")


def _documents_in(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in READERS.keys() - _TABLES
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )
