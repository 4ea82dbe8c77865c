"""Prompts and requests as lm_eval makes them."""

import pytest

from tiny_models import TEXT

pytest.importorskip("lm_eval", reason="lm_eval is not installed; it comes with: pip install 'e2llm[harness]'")
from lm_eval.api.instance import Instance

STORY = TEXT.strip()
PROMPT = f"Read this.\n\n{STORY}\n\nQuestion: Where is the key?\nAnswer:"
ROW = {"context": STORY, "question": "Where is the key?", "answer": "under the stone"}
PAIRS = [
    ("Where is the key?", " Under the stone."),
    ("Where is the key? ", "Under the stone."),
    ("Where is the key?\n\n", "a"),
    ("", "The harbour lights went out."),
    ("", "<s>The harbour"),
    ("<s>Where", " is it?"),
    (" ", "naïve ☃"),
    (PROMPT, " under"),
    (PROMPT, " over"),
    (PROMPT * 4, " It is under the stone."),
]


def requests(kind, *arguments, row=None):
    return [
        Instance(kind, row or {}, pair, index, ("tiny", index, 1)) for index, pair in enumerate(arguments)
    ]


def ask(model, prompt, row=None, **options):
    (answer,) = model.generate_until(requests("generate_until", (prompt, options), row=row))
    return answer


def likelihood(model, prompt, continuation, row=None):
    (answer,) = model.loglikelihood(requests("loglikelihood", (prompt, continuation), row=row))
    return answer
