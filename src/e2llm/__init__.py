"""E2LLM: a text encoder reads a long context, a decoder LLM answers from a few soft tokens per chunk.

The public names below load on first use, so that `import e2llm` needs neither torch nor transformers.
"""

import importlib
from typing import TYPE_CHECKING, Any

from e2llm.version import __version__

if TYPE_CHECKING:
    from e2llm.chunking import Chunk, split_text
    from e2llm.inference.chat import ChatSession
    from e2llm.inference.context import Context
    from e2llm.inference.engine import Engine
    from e2llm.modeling.configuration import E2LLMConfig
    from e2llm.modeling.model import E2LLMForConditionalGeneration
    from e2llm.modeling.processor import E2LLMProcessor
    from e2llm.modeling.ridge import init_adapter
    from e2llm.records import Record, read_records
    from e2llm.store.chunk_store import ChunkStore

_HOME_OF = {
    "ChatSession": "e2llm.inference.chat",
    "Chunk": "e2llm.chunking",
    "ChunkStore": "e2llm.store.chunk_store",
    "Context": "e2llm.inference.context",
    "E2LLMConfig": "e2llm.modeling.configuration",
    "E2LLMForConditionalGeneration": "e2llm.modeling.model",
    "E2LLMProcessor": "e2llm.modeling.processor",
    "Engine": "e2llm.inference.engine",
    "Record": "e2llm.records",
    "init_adapter": "e2llm.modeling.ridge",
    "read_records": "e2llm.records",
    "split_text": "e2llm.chunking",
}

__all__ = [
    "ChatSession",
    "Chunk",
    "ChunkStore",
    "Context",
    "E2LLMConfig",
    "E2LLMForConditionalGeneration",
    "E2LLMProcessor",
    "Engine",
    "Record",
    "__version__",
    "init_adapter",
    "read_records",
    "split_text",
]


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        value = getattr(importlib.import_module(_HOME_OF[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'e2llm' has no attribute {name!r}; public names: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
