"""A run's data, checked before its first step: what is wrong is an error or left out, never silent."""

import json
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from transformers import AutoConfig

from e2llm.data.check import DataCheck
from e2llm.errors import E2LLMError
from e2llm.files import write_atomically
from e2llm.modeling.checkpoints.reporting import readable_errors
from e2llm.modeling.checkpoints.sources import resolve_source
from e2llm.modeling.configuration import E2LLMConfig
from e2llm.modeling.processor import E2LLMProcessor
from e2llm.training.build import existing, open_processor
from e2llm.training.console import is_first_process, say
from e2llm.training.recipes.schema import Recipe
from e2llm.training.samples.positions import Positions
from e2llm.training.samples.sources import Source, hold_out, load_sources
from e2llm.training.samples.text_contexts import text_budgets

REPORT_FILE = "data.json"


@dataclass
class RunData:
    """The records of a run and what was found in their files.

    Attributes:
        recipe: The resolved recipe.
        train: What trains.
        validation: What is evaluated: files of their own, or a share of the training records.
        check: The findings.
    """

    recipe: Recipe
    train: list[Source]
    validation: list[Source]
    check: DataCheck = field(default_factory=DataCheck)

    def check_window(self, processor: E2LLMProcessor, window: int | None) -> None:
        """Leave out records of which a sample may need more positions than the window or a budget has."""
        settings, limit = self.recipe.objectives.reasoning, window
        if settings.context == "text":
            limit = min((item for item in text_budgets(settings, window) if item is not None), default=None)
        if limit is not None:
            positions = Positions(self.recipe, processor, limit)
            self.train = [self._fitting(source, positions) for source in self.train]
            self.validation = [self._fitting(source, positions) for source in self.validation]

    def _fitting(self, source: Source, positions: Positions) -> Source:
        fits = self.check.check_window(
            source.file.path,
            zip(source.lines, source.records, strict=True),
            partial(positions.count, objectives=source.file.objectives),
            positions.window,
        )
        return source if all(fits) else source.part(fits)

    def finish(self) -> None:
        """Report the findings on stderr and in the run's folder.

        Raises:
            E2LLMError: If something is wrong with the data and is not to be left out, with every kind of
                finding and its first places.
        """
        mode = self.recipe.data.problems
        for line in self.check.lines(leaves_out=mode == "skip"):
            say(f"data: {line}")
        if is_first_process():
            report = json.dumps({"problems": mode, **self.check.to_dict()}, indent=2, ensure_ascii=False)
            write_atomically(self.recipe.folder / REPORT_FILE, f"{report}\n".encode())
        wrong = [item for item in self.check.errors if mode == "strict" or item.kind == "no_records"]
        if wrong:
            found = "; ".join(item.line() for item in wrong)
            other = ", or set data.problems: skip to leave that out" if mode == "strict" else ""
            raise E2LLMError(f"the data are wrong: {found}. Mend the files{other}")


def read_data(recipe: Recipe) -> RunData:
    """Read a run's files; bad lines and training records that are also in validation are findings.

    Raises:
        FileNotFoundError: If a file is missing.
    """
    check = DataCheck()
    validation = load_sources(recipe.data.validation, partial(check.read, part="validation"))
    train = load_sources(recipe.data.train, partial(check.read, part="train"))
    if not recipe.data.validation:
        train, validation = hold_out(train, recipe.data.validation_fraction)
    return RunData(recipe, train, validation, check)


def open_parts(recipe: Recipe) -> tuple[E2LLMProcessor, int | None]:
    """Return the processor and the decoder's window, without any weights.

    Raises:
        E2LLMError: If a part cannot be read.
    """
    processor = open_processor(recipe)
    if recipe.init_from is not None:
        with readable_errors(f"config of {recipe.init_from}"):
            config: Any = E2LLMConfig.from_pretrained(
                resolve_source(existing(recipe.init_from, "init_from"))
            ).text_config
    else:
        name = str(recipe.decoder.source)
        with readable_errors(f"decoder {name}"):
            config = AutoConfig.from_pretrained(resolve_source(name), trust_remote_code=False)
    return processor, getattr(config, "max_position_embeddings", None)
