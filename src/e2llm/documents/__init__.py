"""Documents: files, folders, uploads and streams become text with the places that it comes from."""

from e2llm.documents.document import Document, named_apart
from e2llm.documents.faults import LeftOut, summarize_left_out
from e2llm.documents.folders import list_folder
from e2llm.documents.loading import documents_of, existing_path, iter_documents, load_documents, read_stream
from e2llm.documents.readers import READERS, read_bytes, read_documents

__all__ = [
    "READERS",
    "Document",
    "LeftOut",
    "documents_of",
    "existing_path",
    "iter_documents",
    "list_folder",
    "load_documents",
    "named_apart",
    "read_bytes",
    "read_documents",
    "read_stream",
    "summarize_left_out",
]
