"""Generated recall tasks in your own texts; see `e2llm.data.needles`."""

from pathlib import Path

from e2llm.data.data_set import Conversion, Records, data_set
from e2llm.data.needles.generator import generate_needles
from e2llm.data.sets.parquet import parquet
from e2llm.data.sets.text import text
from e2llm.records import read_records


@data_set(
    "needles",
    description="generated: facts hidden in long texts (numbers, words, keys, plain facts)",
    licence="that of your haystacks",
    home="generated from any texts of yours",
    layout="haystacks: a records .jsonl, .parquet with a column 'text', or .txt/.md files",
)
def needles(
    run: Conversion,
    *,
    num_records: int = 1000,
    lengths_chars: tuple[int, ...] = (300, 600, 1000, 2000, 4000, 8000, 16000),
    kinds: tuple[str, ...] = (),
    seed: int = 0,
) -> Records:
    """Yield needle records; see `generate_needles` for the options."""
    return generate_needles(read_haystacks(run.source), num_records, lengths_chars, kinds, seed)


def read_haystacks(source: Path) -> list[str]:
    """Return the texts of a records file (`.jsonl`), Parquet files (column `text`) or plain text files."""
    if source.suffix == ".jsonl":
        return list(dict.fromkeys(record.context for record in read_records(source)))
    is_parquet = source.suffix == ".parquet" or (source.is_dir() and any(source.glob("*.parquet")))
    conversion = parquet() if is_parquet else text()
    return [record.context for record in conversion.convert(source)]
