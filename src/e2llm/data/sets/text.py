"""Your own plain text: a file, or a folder of `.txt` and `.md` files."""

from pathlib import Path

from e2llm.data.data_set import Conversion, Records, data_set


@data_set(
    "text",
    description="your own texts: every file becomes one context to restate",
    licence="that of your texts",
    home="any folder of yours",
    layout="a text file, or a folder with .txt or .md files at any depth",
)
def text(run: Conversion, *, encoding: str = "utf-8-sig") -> Records:
    """Yield one text-only record per file; hidden files are skipped.

    Args:
        run: The conversion.
        encoding: The files' encoding; the default is UTF-8 with or without a byte-order mark.
    """
    root = run.source.parent if run.source.is_file() else run.source
    files = [run.source] if run.source.is_file() else _text_files(root)
    if not files:
        raise run.error("no .txt or .md file in this folder")
    for path in files:
        content = run.text(path, encoding)
        if content.strip():
            yield run.record(content, id=path.relative_to(root).as_posix())
        else:
            run.skip("empty file")


def _text_files(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in (".txt", ".md")
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )
