"""What a store keeps of one chunk: named tensors, made of what was read and put back.

Models whose dial is the rate keep `kept` (`[n, S]` float16, the chunk's own rows), `num_tokens` (a number)
and `vector` (`[E]`); the others keep `soft_tokens` (`[K, D]`) and `vector`, as they always have.
"""

import torch

from e2llm.inference.reader import ChunkReader, ReadChunks


def to_entry(read: ReadChunks, place: int, reader: ChunkReader) -> dict[str, torch.Tensor]:
    """Return the entry of a chunk that was read."""
    vector = read.vectors[place].clone()
    if reader.model.adapter.dial == "rate":
        return {
            "kept": read.rows[place],
            "num_tokens": read.num_tokens[place].clone(),
            "vector": vector,
        }
    return {"soft_tokens": read.rows[place], "vector": vector}


def from_entry(entry: dict[str, torch.Tensor], result: ReadChunks, place: int) -> None:
    """Put an entry that fits in its place."""
    result.rows[place] = entry["kept"] if "kept" in entry else entry["soft_tokens"]
    result.vectors[place] = entry["vector"]
    if "num_tokens" in entry:
        result.num_tokens[place] = entry["num_tokens"]


def fits_entry(entry: dict[str, torch.Tensor], reader: ChunkReader) -> bool:
    """Whether a stored entry has the names, shapes and dtypes that the model makes."""
    has_rate = reader.model.adapter.dial == "rate"
    name = "kept" if has_rate else "soft_tokens"
    if entry.keys() != {name, "vector", *(["num_tokens"] if has_rate else [])}:
        return False
    num_tokens = 1
    if has_rate:
        number = entry["num_tokens"]
        if number.shape != () or number.dtype != torch.int64 or number < 1:
            return False
        num_tokens = int(number)
    rows, vector = entry[name], entry["vector"]
    return (
        rows.shape == (reader.num_rows(num_tokens), reader.width)
        and rows.dtype == reader.dtype
        and vector.shape == (reader.model.config.encoder_config.hidden_size,)
        and vector.dtype == torch.float32
    )
