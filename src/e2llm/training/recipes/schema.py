"""The keys of a recipe, with their defaults, ranges and meaning; `e2llm.training.recipe` reads the files.

The docstrings below the fields become the tables of docs/training.md.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from e2llm.chunking import CHUNKERS
from e2llm.modeling.rates import check_rate
from e2llm.training.recipes.objectives import KEYS_OF_NUMBERS, KEYS_OF_RATES, ObjectivesSection, Purpose
from e2llm.training.recipes.part_sections import AdapterSection, DecoderSection, EncoderSection, Section

FINAL_FOLDER = "final"


class ChunkingSection(Section):
    """How contexts are split."""

    chunk_size_chars: int = Field(default=512, ge=16)
    """Longest chunk, in characters (paper: 512)."""
    kind: str = "prose"
    """`prose`, `code` or `tokens`."""

    @model_validator(mode="after")
    def _check(self) -> "ChunkingSection":
        if self.kind not in CHUNKERS:
            raise ValueError(f"kind must be one of {', '.join(CHUNKERS)}, got {self.kind!r}")
        return self


class ValidationFile(Section):
    """One JSONL file of records to evaluate on."""

    path: str
    """The file, relative to --data or to the recipe's folder."""
    objectives: list[Purpose] = Field(default=["understanding", "reasoning"], min_length=1)
    """What it serves. `distractors`: chunks to put around other samples. Text-only records never serve
    reasoning."""


class DataFile(ValidationFile):
    """One JSONL file of records to train on."""

    weight: float = Field(default=1.0, gt=0)
    """How often it is drawn, relative to the other files that serve the objective."""


class DataSection(Section):
    """Training and validation records."""

    train: list[DataFile] = Field(min_length=1)
    """Files to train on."""
    validation: list[ValidationFile] = Field(default=[])
    """Files to evaluate on; without any, a share of the training records is held out."""
    validation_fraction: float = Field(default=0.05, ge=0, lt=1)
    """Share of the contexts to hold out if there are no validation files (paper: 0.05)."""
    problems: Literal["strict", "skip"] = "strict"
    """Bad lines, leaks and records beyond the window: refuse them, or leave them out."""


class TrainSection(Section):
    """Optimization."""

    steps: int = Field(default=1000, ge=1)
    """Optimizer steps."""
    batch_size: int = Field(default=8, ge=1)
    """Samples per forward pass and device."""
    gradient_accumulation: int = Field(default=1, ge=1)
    """Forward passes per optimizer step."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Peak learning rate (paper: 1e-4)."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of the learning rate after warm-up."""
    warmup_fraction: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps for warm-up."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW's weight decay."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Autocast precision; `auto`: bf16 where the device has it, else fp16 (GPU) or fp32 (CPU)."""
    gradient_checkpointing: bool = False
    """Recompute the decoder's activations: less memory, more time."""
    parallel: Literal["ddp", "fsdp2", "zero2", "zero3"] = "ddp"
    """What GPUs shard: nothing (ddp), optimizer state (zero2), weights too (fsdp2, zero3)."""
    packing: bool = False
    """Put several samples into one row instead of padding them."""
    num_threads: int | None = Field(default=None, ge=1)
    """CPU threads; torch chooses by default."""
    dataloader_workers: int = Field(default=0, ge=0)
    """Processes that prepare samples."""
    log_every_steps: int = Field(default=10, ge=1)
    """Steps between log lines."""
    evaluate_every_steps: int = Field(default=200, ge=1)
    """Steps between evaluations."""
    evaluate_samples: int = Field(default=64, ge=1)
    """Held-out samples per objective and evaluation."""
    save_every_steps: int = Field(default=200, ge=1)
    """Steps between checkpoints; with `final: best` a multiple of evaluate_every_steps."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """Checkpoints to keep beside the best one."""
    final: Literal["best", "last"] = "best"
    """Weights of the model: those of the best evaluation, or the last."""

    @model_validator(mode="after")
    def _check(self) -> "TrainSection":
        if self.final == "best" and self.save_every_steps % self.evaluate_every_steps:
            raise ValueError(
                f"save_every_steps={self.save_every_steps} must be a multiple of evaluate_every_steps="
                f"{self.evaluate_every_steps}, for the best evaluated weights are saved; or set final: last"
            )
        return self


class Recipe(Section):
    """A resolved training run."""

    name: str
    """Name of the run."""
    stage: str = ""
    """Name of the stage, if the recipe has several."""
    output: str = ""
    """Folder of the run; by default runs/NAME. Each stage writes to a sub-folder."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Fixes initial weights, data order and every draw."""
    init_from: str | None = None
    """Checkpoint from which the first stage starts. It gives every value of encoder, decoder, adapter and
    chunking that the recipe leaves out."""
    encoder: EncoderSection = EncoderSection()
    decoder: DecoderSection = DecoderSection()
    adapter: AdapterSection = AdapterSection()
    chunking: ChunkingSection = ChunkingSection()
    data: DataSection
    objectives: ObjectivesSection = ObjectivesSection()
    train: TrainSection = TrainSection()

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        if self.decoder.source is None:
            raise ValueError(
                "decoder.source is missing; it can be left out only with init_from, whose checkpoint has a "
                "decoder"
            )
        if (self.encoder.mode, self.adapter.mode, self.decoder.mode) == ("frozen",) * 3:
            raise ValueError(
                "encoder, adapter and decoder are all frozen; set the mode of one of them to lora or full"
            )
        if self.train.parallel in ("fsdp2", "zero3"):
            self._check_sharded()
        if self.encoder.mode == "frozen" and self.encoder.unchecked_tokens:
            raise ValueError(
                "encoder.unchecked_tokens has no effect on a frozen encoder; leave it out or set "
                "encoder.mode: lora"
            )
        if self.objectives.reasoning.context == "text":
            self._check_text()
        elif self.adapter.kind == "pooling":
            self._check_rates()
        elif names := self.objectives.changed(KEYS_OF_RATES):
            raise ValueError(
                f"objectives.{names[0]} works with adapter.kind: pooling only, got {self.adapter.kind}; "
                "leave it out"
            )
        elif max(self.objectives.soft_tokens) > self.adapter.max_soft_tokens:
            raise ValueError(
                f"objectives.soft_tokens has {max(self.objectives.soft_tokens)}, but "
                f"adapter.max_soft_tokens is {self.adapter.max_soft_tokens}; lower the former or raise the "
                "latter"
            )
        return self

    def _check_rates(self) -> None:
        """Refuse rates finer than what the adapter keeps, and the dial of other adapters."""
        if names := self.objectives.changed(KEYS_OF_NUMBERS):
            raise ValueError(
                f"objectives.{names[0]} has no effect with adapter.kind: pooling; give objectives.rates"
            )
        if self.objectives.distillation.teacher and self.decoder.mode != "lora":
            raise ValueError(
                "objectives.distillation.teacher needs decoder.mode: lora, got "
                f"{self.decoder.mode}: teacher and student share the decoder's own weights"
            )
        for rate in self.objectives.rates:
            check_rate(rate, self.adapter.finest_rate, "rates")

    def _check_text(self) -> None:
        """Refuse to train what raw text does not touch."""
        for part, mode in (("encoder", self.encoder.mode), ("adapter", self.adapter.mode)):
            if mode != "frozen":
                raise ValueError(
                    f"objectives.reasoning.context: text trains the decoder alone, got {part}.mode: {mode}; "
                    f"set {part}.mode: frozen"
                )

    def _check_sharded(self) -> None:
        """Refuse what cannot be sharded, and what makes processes wait for each other forever."""
        if self.decoder.quantization != "none":
            raise ValueError(
                f"decoder.quantization: {self.decoder.quantization} does not work with train.parallel: "
                f"{self.train.parallel}: packed weights cannot be sharded; set train.parallel: ddp"
            )
        if self.encoder.unchecked_tokens:
            raise ValueError(
                f"encoder.unchecked_tokens does not work with train.parallel: {self.train.parallel}: "
                "processes gather the encoder's weights together, and would make unequal numbers of "
                "passes; leave it out, or set train.parallel: ddp or zero2"
            )

    @property
    def folder(self) -> Path:
        """Where this run, or this stage of it, writes."""
        base = Path(self.output or Path("runs") / self.name)
        return base / self.stage if self.stage else base
