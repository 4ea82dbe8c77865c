"""Start a server on this machine, keep a context in it, and ask with OpenAI's client.

python examples/serve_and_call.py
"""

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator

import httpx2
import openai

TEXT = "Mira counted the boats. There were seven of them. The key is under the blue stone. " * 30


@contextlib.contextmanager
def server() -> Iterator[str]:
    """A server in a process of its own; its address."""
    command = [sys.executable, "-m", "e2llm", "serve", "smol", "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        line = next(line for line in process.stderr if "http://" in line)
        yield re.search(r"http://\S+", line).group()
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    with server() as url:
        made = httpx2.post(f"{url}/v1/contexts", json={"name": "harbour", "text": TEXT}, timeout=600).json()
        print(f"{made['id']}: {made['context_tokens']} tokens in {made['chunks']} chunks")
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
        answer = client.chat.completions.create(
            model="smol",
            messages=[{"role": "user", "content": "Where is the key?"}],
            max_tokens=24,
            extra_body={"context_ids": [made["id"]], "expand": 1, "return_expanded": True},
        )
        print(answer.choices[0].message.content)
        print(f"{answer.usage.original_tokens} tokens in {answer.usage.prompt_tokens} positions")
        print(f"as text: {answer.e2llm['expanded'][0]['text'][:60]!r}...")


if __name__ == "__main__":
    main()
