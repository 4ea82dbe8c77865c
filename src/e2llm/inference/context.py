"""A context that has been read: its chunks, where they come from, and their soft tokens."""

from dataclasses import dataclass

import torch

from e2llm.chunking import Chunk


@dataclass(frozen=True)
class Context:
    """What the decoder knows of the documents; read once, asked often.

    Attributes:
        chunks: The chunks in order; spans count within each chunk's document.
        sources: Name of each chunk's document, as many as chunks.
        soft_tokens: `[C, K, D]` soft tokens on the CPU, K the most that the model makes.
        num_tokens: Decoder tokens of the documents' text.
        read_seconds: Time that reading took.
    """

    chunks: list[Chunk]
    sources: list[str]
    soft_tokens: torch.Tensor
    num_tokens: int
    read_seconds: float

    def __len__(self) -> int:
        return len(self.chunks)

    def __repr__(self) -> str:
        names = list(dict.fromkeys(self.sources))
        return f"Context({len(self)} chunks of {len(names)} document(s), {self.num_tokens} tokens)"
