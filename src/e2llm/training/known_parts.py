"""Dimensions of well-known encoders and decoders, for planning where neither weights nor a hub are at hand.

The dimensions are those that the models' authors published in their `config.json`; what is not given is the
default of the type. Only sizes on paper are computed from them: a run loads the real configuration.
"""

from pathlib import Path
from typing import Any

from transformers import AutoConfig

from e2llm.errors import E2LLMError
from e2llm.modeling.configuration import E2LLMConfig
from e2llm.modeling.gguf import gguf_file
from e2llm.modeling.parts import is_folder_name, readable_errors, reject_remote_code, resolve_source


def _bert(width: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "model_type": "bert",
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "vocab_size": 30522,
        "max_position_embeddings": 512,
    }


def _decoder(
    model_type: str,
    width: int,
    feed_forward: int,
    layers: int,
    heads: int,
    key_value_heads: int,
    vocabulary: int,
    window: int,
    **more: Any,
) -> dict[str, Any]:
    return {
        "model_type": model_type,
        "hidden_size": width,
        "intermediate_size": feed_forward,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads,
        "vocab_size": vocabulary,
        "max_position_embeddings": window,
        "tie_word_embeddings": False,
        **more,
    }


_TIED = {"tie_word_embeddings": True}
_QWEN3_HEAD = {"head_dim": 128}
KNOWN_ENCODERS: dict[str, dict[str, Any]] = {
    "sentence-transformers/all-MiniLM-L6-v2": _bert(384, 6, 12),
    "BAAI/bge-small-en-v1.5": _bert(384, 12, 12),
    "BAAI/bge-base-en-v1.5": _bert(768, 12, 12),
    "BAAI/bge-large-en-v1.5": _bert(1024, 24, 16),
    "thenlper/gte-small": _bert(384, 12, 12),
    "thenlper/gte-base": _bert(768, 12, 12),
    "thenlper/gte-large": _bert(1024, 24, 16),
}
KNOWN_DECODERS: dict[str, dict[str, Any]] = {
    "meta-llama/Llama-2-7b-chat-hf": _decoder("llama", 4096, 11008, 32, 32, 32, 32000, 4096),
    "meta-llama/Llama-2-13b-chat-hf": _decoder("llama", 5120, 13824, 40, 40, 40, 32000, 4096),
    "meta-llama/Llama-3.1-8B-Instruct": _decoder("llama", 4096, 14336, 32, 32, 8, 128256, 131072),
    "HuggingFaceTB/SmolLM2-135M-Instruct": _decoder("llama", 576, 1536, 30, 9, 3, 49152, 8192, **_TIED),
    "Qwen/Qwen2.5-0.5B-Instruct": _decoder("qwen2", 896, 4864, 24, 14, 2, 151936, 32768, **_TIED),
    "Qwen/Qwen2.5-1.5B-Instruct": _decoder("qwen2", 1536, 8960, 28, 12, 2, 151936, 32768, **_TIED),
    "Qwen/Qwen2.5-7B-Instruct": _decoder("qwen2", 3584, 18944, 28, 28, 4, 152064, 32768),
    "Qwen/Qwen3-0.6B": _decoder("qwen3", 1024, 3072, 28, 16, 8, 151936, 40960, **_TIED, **_QWEN3_HEAD),
    "Qwen/Qwen3-8B": _decoder("qwen3", 4096, 12288, 36, 32, 8, 151936, 40960, **_QWEN3_HEAD),
}


def part_config(part: str, name: str, revision: str | None = None) -> Any:
    """The configuration of an encoder or a decoder, without asking a hub.

    Args:
        part: `encoder` or `decoder`.
        name: Hub id or local folder, or an E2LLM checkpoint that has such a part.
        revision: Revision of a hub id, where the cache has it.

    Returns:
        The configuration of the folder or of the hub's local cache, else one of the known dimensions.

    Raises:
        E2LLMError: If the name is neither there nor known.
    """
    table = KNOWN_ENCODERS if part == "encoder" else KNOWN_DECODERS
    # a packaged GGUF file of known dimensions is not converted for a plan on paper
    source = name if name in table and gguf_file(name) is not None else resolve_source(name)
    if Path(source).is_dir():
        with readable_errors(f"{part} {name}"):
            config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        reject_remote_code(config, name)
        return _part_of(part, config)
    if not is_folder_name(name):
        options: dict[str, Any] = {"revision": revision} if revision else {}
        try:
            config = AutoConfig.from_pretrained(
                name, local_files_only=True, trust_remote_code=False, **options
            )
        except (OSError, ValueError):
            config = None
        if config is not None:
            reject_remote_code(config, name)
            return _part_of(part, config)
    if name not in table:
        raise E2LLMError(
            f"{part}.source: the dimensions of {name} are not known here: it is no local folder, not in the "
            f"hub's cache and not in the built-in table ({', '.join(table)}); give a local folder with its "
            f"config.json: --set {part}.source=FOLDER"
        )
    return AutoConfig.for_model(**table[name])


def _part_of(part: str, config: Any) -> Any:
    """The configuration of a part where that of a whole E2LLM checkpoint was found."""
    if config.model_type != E2LLMConfig.model_type:
        return config
    return config.encoder_config if part == "encoder" else config.text_config
