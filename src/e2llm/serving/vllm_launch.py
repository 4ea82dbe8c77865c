"""The command line that starts vLLM with an exported decoder."""

import os
import shlex
from typing import Any

from e2llm.serving.vllm_prompts import content_format

PORT = 8001


def launch_line(folder: str | os.PathLike[str], name: str, tokenizer: Any, dtype: str) -> str:
    """What to type to have vLLM serve an exported decoder to this machine only.

    Args:
        folder: Where the decoder was exported to.
        name: Under which it is served.
        tokenizer: The decoder's.
        dtype: Of its weights, such as `bfloat16`; soft tokens have the same.

    Raises:
        E2LLMError: If the tokenizer has no chat template.
    """
    options = {
        "--served-model-name": name,
        "--chat-template-content-format": content_format(tokenizer),
        "--dtype": dtype,
        "--host": "127.0.0.1",
        "--port": str(PORT),
    }
    flat = [item for pair in options.items() for item in pair]
    return shlex.join(["vllm", "serve", os.path.abspath(folder), "--enable-prompt-embeds", *flat])
