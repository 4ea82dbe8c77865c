"""A text column of Parquet files -> text-only records."""

from e2llm.data.data_set import Conversion, Records, data_set


@data_set(
    "parquet",
    description="a text column of Parquet files: every row becomes one context to restate",
    licence="that of your texts",
    home="any Parquet file of yours",
    layout="a .parquet file, or a folder with .parquet files, with a string column (--set column=NAME)",
)
def parquet(run: Conversion, *, column: str = "text", id_column: str = "id") -> Records:
    """Yield one text-only record per row.

    Args:
        run: The conversion.
        column: The column of the texts.
        id_column: The column of the ids; without it, rows are numbered.
    """
    for path in run.files("**/*.parquet"):
        for number, row in run.parquet(path, column, optional=id_column):
            if not (row[column] or "").strip():
                run.skip("empty row")
                continue
            identifier = row.get(id_column)
            name = f"{path.stem}:{number}" if identifier is None else str(identifier)
            yield run.record(row[column], id=name)
