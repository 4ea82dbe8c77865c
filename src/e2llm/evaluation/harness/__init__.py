"""lm-evaluation-harness: the model type `e2llm`, so that its long-context tasks run on our checkpoints.

    python -m e2llm.evaluation.harness --model e2llm --model_args pretrained=smol --tasks TASK

lm_eval finds models only in its own package, so its own command does not know `e2llm`: this module registers
the model and hands the arguments to lm_eval. In Python, `E2LLMHarness(pretrained="smol")` is a model for
`lm_eval.simple_evaluate`. Importing this module does not load lm_eval.
"""

import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

from e2llm.errors import MissingExtraError
from e2llm.messages import printable


@cache
def harness_class() -> type[Any]:
    """Return the class `E2LLMHarness`, registered with lm_eval as `e2llm`.

    It takes the arguments of `e2llm.evaluation.harness.lm_eval_model.HarnessModel`.

    Raises:
        MissingExtraError: If lm_eval is not installed.
    """
    try:
        import lm_eval.models  # noqa: F401  a registry that holds a model does not fill itself any more
        from lm_eval.api.registry import register_model
        from lm_eval.models.huggingface import HFLM
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.split(".")[0] != "lm_eval":
            raise
        raise MissingExtraError("lm_eval", "harness") from error
    from e2llm.evaluation.harness.lm_eval_model import HarnessModel

    @register_model("e2llm")
    class E2LLMHarness(HarnessModel, HFLM):  # type: ignore[misc]
        """lm_eval's `hf` with `HarnessModel`."""

    E2LLMHarness.__module__, E2LLMHarness.__qualname__ = __name__, "E2LLMHarness"
    return E2LLMHarness


def __getattr__(name: str) -> Any:
    if name == "E2LLMHarness":
        return harness_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run lm_eval's command line with the model type `e2llm` registered.

    Args:
        arguments: Those of `lm_eval`; by default the process's.

    Returns:
        The exit code: 1 for an error that the user can correct, printed in one line.
    """
    given = sys.argv
    try:
        harness_class()
        from lm_eval.__main__ import cli_evaluate

        sys.argv = ["lm_eval", *(given[1:] if arguments is None else arguments)]  # the only way in
        cli_evaluate()
    except (MissingExtraError, ValueError, FileNotFoundError) as error:
        print(printable(f"error: {error}"), file=sys.stderr)
        return 1
    finally:
        sys.argv = given
    return 0
