"""The keys of a recipe, with their defaults, ranges and meaning; `e2llm.training.recipe` reads the files.

The docstrings below the fields become the tables of docs/training.md.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from e2llm.chunking import CHUNKERS
from e2llm.modeling.rates import check_rate
from e2llm.training.objectives import KEYS_OF_NUMBERS, KEYS_OF_RATES, ObjectivesSection, Purpose
from e2llm.training.part_sections import AdapterSection, DecoderSection, EncoderSection
from e2llm.training.section import Section

FINAL_FOLDER = "final"


class ChunkingSection(Section):
    """How contexts are split."""

    chunk_size_chars: int = Field(default=512, ge=16)
    """Longest chunk, in characters (paper: 512)."""
    overlap_chars: int = Field(default=0, ge=0)
    """Characters that a chunk repeats of the one before."""
    kind: str = "prose"
    """`prose`, `code` or `tokens`."""

    @model_validator(mode="after")
    def _check(self) -> "ChunkingSection":
        if self.kind not in CHUNKERS:
            raise ValueError(f"kind must be one of {', '.join(CHUNKERS)}, got {self.kind!r}")
        if self.kind != "tokens" and self.overlap_chars >= self.chunk_size_chars:
            raise ValueError(
                f"overlap_chars={self.overlap_chars} must be below chunk_size_chars={self.chunk_size_chars}"
            )
        return self


class DataFile(Section):
    """One JSONL file of records."""

    path: str
    """The file; relative paths are looked up under --data if that is given, else beside the recipe."""
    weight: float = Field(default=1.0, gt=0)
    """How often it is drawn: its share is weight / sum of the weights of files that serve the objective."""
    objectives: list[Purpose] = Field(default=["understanding", "reasoning"], min_length=1)
    """What it serves; text-only records never serve reasoning. `distractors`: chunks around its samples."""
    limit: int | None = Field(default=None, ge=1)
    """Read only the first records."""
    most_turns: int = Field(default=1, ge=1)
    """Most records whose contexts stand in one reasoning sample and that are asked one after another. For
    questions that say which context they are about, as those of needles do."""
    expand_fraction: float | None = Field(default=None, ge=0, le=1)
    """For this file, in the place of objectives.reasoning.expand_fraction: 1 for answers that no soft tokens
    carry, such as UUIDs."""


class DataSection(Section):
    """Training and validation records."""

    train: list[DataFile] = Field(min_length=1)
    """Files to train on."""
    validation: list[DataFile] = Field(default=[])
    """Files to evaluate on; without any, a share of the training records is held out."""
    validation_fraction: float = Field(default=0.05, ge=0, lt=1)
    """That share (paper: 0.05), taken by context so that no context is on both sides."""
    problems: Literal["strict", "skip"] = "strict"
    """Bad lines, contexts of validation in train and records beyond the window: an error, or left out."""


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
    """Shape of the learning rate after the warm-up."""
    warmup_fraction: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps over which the learning rate rises."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW's weight decay."""
    adam_beta2: float = Field(default=0.95, gt=0, lt=1)
    """AdamW's second beta."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are clipped to this norm."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Autocast precision; auto takes bf16 where the device has it, else fp16 (GPU) or fp32 (CPU)."""
    gradient_checkpointing: bool = False
    """Recompute the decoder's activations in the backward pass: less memory, more time."""
    parallel: Literal["ddp", "fsdp2", "zero2", "zero3"] = "ddp"
    """What several GPUs share out: the data; weights, too (fsdp2, zero3); optimizer state (zero2)."""
    cache_encoder_states_mb: int = Field(default=0, ge=0)
    """Memory for token states of a frozen encoder, so that a chunk seen again is not encoded again."""
    encoder_state_store: str | None = None
    """Folder of a store that keeps these states on disk, for later runs and for all processes."""
    sort_by_length: bool = False
    """Share a step's samples out to its forward passes by length, so that less padding is read."""
    position_skips: float = Field(default=0.0, ge=0, le=1)
    """Share of the samples whose positions skip, at two places, up to the end of the decoder's window: short
    samples then teach distances of long ones (PoSE, arXiv 2309.10400)."""
    attention: Literal["default", "eager", "sdpa"] = "default"
    """How the decoder's attention is computed; eager is quicker on CPUs in bf16 where samples are short."""
    packing: bool = False
    """Put several samples into a row of the decoder's batch in the place of padding; none sees another."""
    compile: bool = False
    """Compile the layers of encoder and decoder with torch.compile; needs a C++ compiler, pays on GPUs."""
    track: Literal["none", "tensorboard"] = "none"
    """Where the log goes besides curves.csv: `tensorboard` writes event files (extra `track`)."""
    num_threads: int | None = Field(default=None, ge=1)
    """CPU threads; by default torch's choice."""
    dataloader_workers: int = Field(default=0, ge=0)
    """Processes that prepare samples."""
    log_every_steps: int = Field(default=10, ge=1)
    """How often losses are logged."""
    evaluate_every_steps: int = Field(default=200, ge=1)
    """How often held-out records are evaluated."""
    evaluate_samples: int = Field(default=64, ge=1)
    """Held-out samples per objective and evaluation; several processes round up to whole batches of all."""
    save_every_steps: int = Field(default=200, ge=1)
    """How often a checkpoint to resume from is saved; with final best, a multiple of evaluate_every_steps."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """Checkpoints to keep, the best one not counted."""
    final: Literal["best", "last"] = "best"
    """Whose weights become the model: those of the best evaluation, or the last."""

    @model_validator(mode="after")
    def _check(self) -> "TrainSection":
        if self.packing and self.position_skips:
            raise ValueError("position_skips does not go with packing: set one of them to 0 or false")
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
    """Name of the stage, where the recipe has several."""
    output: str = ""
    """Folder of the run; by default runs/NAME. A stage writes to a sub-folder."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Fixes initial weights, data order and every draw."""
    init_from: str | None = None
    """Checkpoint to start from, the first stage that is; each other starts from the one before it. What the
    recipe leaves out of encoder, decoder, adapter and chunking is then the checkpoint's."""
    average_with: str | None = None
    """A stage before this one, or a checkpoint: the start is the mean of its weights and those of init_from,
    which often has the skills of both (model soups, arXiv 2203.05482)."""
    encoder: EncoderSection = EncoderSection()
    decoder: DecoderSection = DecoderSection()
    adapter: AdapterSection = AdapterSection()
    chunking: ChunkingSection = ChunkingSection()
    data: DataSection
    objectives: ObjectivesSection = ObjectivesSection()
    train: TrainSection = TrainSection()

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        if (self.decoder.source is None) == (self.decoder.new is None):
            raise ValueError(
                "give one of decoder.source and decoder.new; both can be left out only with init_from, whose "
                "checkpoint has a decoder"
            )
        if self.decoder.new and self.init_from is None and self.decoder.mode != "full":
            raise ValueError(f"a decoder from scratch needs decoder.mode: full, got {self.decoder.mode}")
        if self.adapter.reset and self.init_from is None:
            raise ValueError("adapter.reset has no effect without init_from or a stage before; leave it out")
        if self.average_with is not None and self.init_from is None:
            raise ValueError("average_with has no effect without init_from or a stage before; leave it out")
        if (self.encoder.mode, self.adapter.mode, self.decoder.mode) == ("frozen",) * 3:
            raise ValueError("encoder, adapter and decoder are all frozen; let one of them train")
        keeps = {
            "train.cache_encoder_states_mb": self.train.cache_encoder_states_mb,
            "train.encoder_state_store": self.train.encoder_state_store,
        }
        for key in (key for key, value in keeps.items() if value and self.encoder.mode != "frozen"):
            raise ValueError(f"{key} works for a frozen encoder only, got encoder.mode: {self.encoder.mode}")
        if self.train.parallel in ("fsdp2", "zero3"):
            self._check_sharded(keeps)
        if self.encoder.mode == "frozen" and (
            self.encoder.backward_fraction < 1 or self.encoder.unchecked_tokens
        ):
            raise ValueError(
                "encoder.backward_fraction and encoder.unchecked_tokens have no effect on a frozen encoder; "
                "leave them out or set encoder.mode: lora"
            )
        if self.objectives.reasoning.context == "text":
            self._check_text(keeps)
        elif self.adapter.kind == "pooling":
            self._check_rates()
        elif names := self.objectives.changed(KEYS_OF_RATES):
            raise ValueError(
                f"objectives.{names[0]} works with adapter.kind: pooling only, got {self.adapter.kind}; "
                "leave it out"
            )
        elif max(self.objectives.soft_tokens) > self.adapter.max_soft_tokens:
            raise ValueError(
                f"objectives.soft_tokens has {max(self.objectives.soft_tokens)}, adapter.max_soft_tokens is "
                f"{self.adapter.max_soft_tokens}; raise the one or lower the other"
            )
        return self

    def _check_rates(self) -> None:
        """Refuse rates finer than what is kept, and the dial of other adapters."""
        if names := self.objectives.changed(KEYS_OF_NUMBERS):
            raise ValueError(
                f"objectives.{names[0]} has no effect with adapter.kind: pooling; give objectives.rates"
            )
        if self.objectives.distillation.teacher and self.decoder.mode != "lora":
            raise ValueError(
                "objectives.distillation.teacher needs decoder.mode: lora, got "
                f"{self.decoder.mode}: teacher and student share the decoder's own weights"
            )
        for name, rates in (("rates", self.objectives.rates), ("default_rate", [self.adapter.default_rate])):
            for rate in rates:
                check_rate(rate, self.adapter.finest_rate, name)

    def expand_fraction(self, file: DataFile) -> float:
        """Share of the reasoning samples of a file in which some chunks stand as raw text."""
        own = file.expand_fraction
        return self.objectives.reasoning.expand_fraction if own is None else own

    @property
    def most_expanded(self) -> int:
        """Most chunks of a reasoning sample that stand as raw text; 0 where none ever does."""
        files = [*self.data.train, *self.data.validation]
        reasoning = self.objectives.reasoning
        shares = [reasoning.expand_fraction, *map(self.expand_fraction, files)]
        return reasoning.expand_max_chunks if any(shares) else 0

    def _check_text(self, keeps: dict[str, Any]) -> None:
        """Refuse to train or to keep what raw text in the place of soft tokens does not touch."""
        for part, mode in (("encoder", self.encoder.mode), ("adapter", self.adapter.mode)):
            if mode != "frozen":
                raise ValueError(
                    f"objectives.reasoning.context: text trains the decoder alone, got {part}.mode: {mode}; "
                    f"set {part}.mode: frozen"
                )
        idle = {**keeps, "adapter.reset": self.adapter.reset}
        for part, files in (("train", self.data.train), ("validation", self.data.validation)):
            idle |= {
                f"data.{part}[{place}].expand_fraction": file.expand_fraction
                for place, file in enumerate(files)
            }
        for key in (key for key, value in idle.items() if value):
            raise ValueError(f"{key} has no effect with objectives.reasoning.context: text; leave it out")

    def _check_sharded(self, keeps: dict[str, Any]) -> None:
        """Refuse what cannot be cut into shares, and what has processes wait for each other for ever."""
        if self.decoder.quantization != "none":
            raise ValueError(
                f"decoder.quantization: {self.decoder.quantization} does not go with train.parallel: "
                f"{self.train.parallel}: packed weights cannot be cut into shares; set train.parallel: ddp"
            )
        unequal = {
            **{key: bool(value) for key, value in keeps.items()},
            "encoder.backward_fraction": self.encoder.backward_fraction < 1,
            "encoder.unchecked_tokens": bool(self.encoder.unchecked_tokens),
        }
        if names := [key for key, is_set in unequal.items() if is_set]:
            raise ValueError(
                f"{', '.join(names)} does not go with train.parallel: {self.train.parallel}: processes "
                "gather the encoder's weights together, and would make unequal numbers of passes; leave it "
                "out, or set train.parallel: ddp or zero2"
            )

    @property
    def folder(self) -> Path:
        """Where this run, or this stage of it, writes."""
        base = Path(self.output or Path("runs") / self.name)
        return base / self.stage if self.stage else base
