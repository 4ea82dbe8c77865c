"""One entry of a store as bytes: named tensors behind a header and a checksum, nothing taken on trust.

Layout: checksum of key and rest (16 bytes, BLAKE2b) | header length (4 bytes, little endian) | header (JSON:
a list of `[name, dtype, shape]`) | the tensors' bytes, one after the other.
"""

import hashlib
import json
import math
import struct
from collections.abc import Mapping

import torch

from e2llm.errors import E2LLMError

_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int64": torch.int64,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_CHECKSUM_BYTES = 16  # BLAKE2b: a flip of any bits shows, which a CRC of 4 bytes misses now and then
_PREFIX = struct.Struct("<I")


def encode_entry(key: bytes, tensors: Mapping[str, torch.Tensor]) -> bytes:
    """Named tensors as bytes, bound to their key of at most 64 bytes.

    Raises:
        E2LLMError: If a dtype is not float32, float16, bfloat16 or int64.
    """
    header, parts = [], []
    for name, tensor in tensors.items():
        if tensor.dtype not in _NAMES:
            raise E2LLMError(f"a store keeps {', '.join(_DTYPES)} tensors, got {tensor.dtype} for {name!r}")
        header.append([name, _NAMES[tensor.dtype], list(tensor.shape)])
        parts.append(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    head = json.dumps(header).encode()
    body = b"".join([_PREFIX.pack(len(head)), head, *parts])
    return hashlib.blake2b(body, digest_size=_CHECKSUM_BYTES, key=key).digest() + body


def decode_entry(key: object, data: object) -> dict[str, torch.Tensor] | None:
    """The tensors of an entry, or None if it is damaged in any way, or that of another key."""
    if not isinstance(key, bytes) or len(key) > hashlib.blake2b.MAX_KEY_SIZE:
        return None
    if not isinstance(data, bytes) or len(data) < _CHECKSUM_BYTES + _PREFIX.size:
        return None
    body = memoryview(data)[_CHECKSUM_BYTES:]
    if hashlib.blake2b(body, digest_size=_CHECKSUM_BYTES, key=key).digest() != data[:_CHECKSUM_BYTES]:
        return None
    at = _PREFIX.size + _PREFIX.unpack_from(body)[0]
    try:
        header = json.loads(bytes(body[_PREFIX.size : at]))
        tensors = {}
        for name, dtype_name, shape in header:
            dtype = _DTYPES[dtype_name]
            if not all(type(size) is int and size >= 0 for size in shape):
                return None
            size = math.prod(shape) * dtype.itemsize
            if at + size > len(body):
                return None
            values = (
                torch.frombuffer(bytearray(body[at : at + size]), dtype=dtype) if size else torch.empty(0)
            )
            tensors[str(name)] = values.to(dtype).reshape(shape)
            at += size
    except (
        ValueError,
        TypeError,
        KeyError,
        RuntimeError,
        OverflowError,
    ):  # a shape beyond torch's, deep JSON
        return None
    return tensors if at == len(body) else None
