"""Recipes: the YAML schema of a training run, resolved as `defaults < YAML < --set key=value`.

A recipe is one run, or a list of `stages` that each change some keys and start from the stage before.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from e2llm.errors import E2LLMError


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class LoraSection(_Section):
    """LoRA of one part."""

    rank: int = Field(16, ge=1)
    """Rank of the deltas (paper: encoder 16-32, decoder 8-16)."""
    alpha: float = Field(32.0, gt=0)
    """Scale of the deltas, which are multiplied by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Fraction of LoRA inputs dropped in training."""
    target_modules: list[str] = []
    """Ends of module names to adapt; by default the table in `e2llm.modeling.lora`."""


class EncoderSection(_Section):
    """The text encoder."""

    source: str = "sentence-transformers/all-MiniLM-L6-v2"
    """Hub id or local folder."""
    revision: str | None = None
    """Revision of a hub id."""
    mode: Literal["frozen", "lora", "full"] = "frozen"
    """What trains."""
    lora: LoraSection = LoraSection()
    """Used with mode lora."""


class NewDecoder(_Section):
    """A decoder trained from scratch: a Llama-shaped model with a tokenizer learned from the training texts."""

    hidden_size: int = Field(256, ge=8)
    """Width."""
    num_layers: int = Field(6, ge=1)
    """Layers."""
    num_heads: int = Field(4, ge=1)
    """Attention heads; must divide hidden_size."""
    intermediate_size: int = Field(704, ge=8)
    """Width of the feed-forward layers."""
    vocab_size: int = Field(8192, ge=300)
    """Tokens of the byte-level BPE tokenizer, special tokens included."""
    window: int = Field(2048, ge=16)
    """Positions that the decoder takes."""
    tokenizer_sample_chars: int = Field(30_000_000, ge=1000)
    """Characters of text that the tokenizer is learned from."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Attention dropout."""

    @model_validator(mode="after")
    def _check(self) -> "NewDecoder":
        if self.hidden_size % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads} does not divide hidden_size={self.hidden_size}")
        return self


class DecoderSection(_Section):
    """The decoder LLM: a pretrained one (`source`) or one made from scratch (`new`)."""

    source: str | None = None
    """Hub id or local folder."""
    revision: str | None = None
    """Revision of a hub id."""
    new: NewDecoder | None = None
    """Shape of a decoder from scratch."""
    mode: Literal["frozen", "lora", "full"] = "lora"
    """What trains."""
    lora: LoraSection = LoraSection(rank=8, alpha=16.0)
    """Used with mode lora."""
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    """Precision in which a pretrained decoder's weights are held."""


class AdapterSection(_Section):
    """The adapter."""

    kind: str = "attention"
    """`attention` (paper v2) or `mlp` (paper v1)."""
    max_soft_tokens: int = Field(8, ge=1)
    """Most soft tokens per chunk."""
    num_heads: int = Field(4, ge=1)
    """Heads of the attention adapter (paper: 4)."""
    pooling: Literal["cls", "mean"] = "mean"
    """What the mlp adapter reads."""
    mode: Literal["frozen", "full"] = "full"
    """Whether it trains."""
    reset: bool = False
    """Start with a new adapter in place of the one of `init_from`."""


class ChunkingSection(_Section):
    """How contexts are split."""

    chunk_size_chars: int = Field(512, ge=16)
    """Longest chunk, in characters (paper: 512)."""
    overlap_chars: int = Field(0, ge=0)
    """Characters that a chunk repeats of the one before."""
    kind: str = "prose"
    """`prose`, `code` or `tokens`."""


class DataFile(_Section):
    """One JSONL file of records."""

    path: str
    """The file; relative paths are looked up under --data if that is given, else beside the recipe."""
    weight: float = Field(1.0, gt=0)
    """How often it is drawn: its share is weight / sum of the weights of files that serve the objective."""
    objectives: list[Literal["language", "understanding", "reasoning"]] = ["understanding", "reasoning"]
    """What it serves; text-only records never serve reasoning."""
    limit: int | None = Field(None, ge=1)
    """Read only the first records."""


class DataSection(_Section):
    """Training and validation records."""

    train: list[DataFile] = Field(min_length=1)
    """Files to train on."""
    validation: list[DataFile] = []
    """Files to evaluate on; without any, a share of the training records is held out."""
    validation_fraction: float = Field(0.05, ge=0, lt=1)
    """That share (paper: 0.05), taken by context so that no context is on both sides."""


class LanguageObjective(_Section):
    """Next-token prediction of plain text, for decoders from scratch."""

    fraction: float = Field(0.0, ge=0, le=1)
    """Share of the samples."""
    sequence_tokens: int = Field(256, ge=8)
    """Decoder tokens per sample."""
    weight: float = Field(1.0, gt=0)
    """Weight of its loss."""


class UnderstandingObjective(_Section):
    """Restating a window of chunks from its soft tokens."""

    fraction: float = Field(0.5, ge=0, le=1)
    """Share of the samples."""
    weight: float = Field(1.0, ge=0)
    """Weight of its mean loss against the reasoning loss (paper v2: 1e-7 to 1e-9 with summed losses)."""
    window_chunks: list[int] = [1, 2, 4]
    """Window lengths to draw from, in chunks."""
    stride_chunks: int = Field(1, ge=1)
    """Windows start at multiples of this."""
    chunk_sizes_chars: list[int] = []
    """Chunk sizes to draw from; by default only chunking.chunk_size_chars. Short ones make a curriculum."""


class ReasoningObjective(_Section):
    """Answering an instruction from the soft tokens of the whole context."""

    max_chunks: int | None = Field(None, ge=1)
    """Longer contexts are cut to a run of this many chunks around the evidence; None keeps all."""
    expand_fraction: float = Field(0.0, ge=0, le=1)
    """Share of the samples in which some chunks stand as raw text."""
    expand_max_chunks: int = Field(2, ge=1)
    """Most chunks that are raw in such a sample."""
    expand_gold_fraction: float = Field(0.7, ge=0, le=1)
    """Share of those samples in which a chunk that holds evidence is among them."""
    distractor_fraction: float = Field(0.0, ge=0, le=1)
    """Share of the samples whose context is surrounded by chunks of other contexts."""
    distractor_max_chunks: int = Field(8, ge=1)
    """Most chunks of other contexts in such a sample."""


class ObjectivesSection(_Section):
    """The mix of objectives; reasoning takes what the other two leave."""

    language: LanguageObjective = LanguageObjective()
    understanding: UnderstandingObjective = UnderstandingObjective()
    reasoning: ReasoningObjective = ReasoningObjective()
    soft_tokens: list[int] = [1, 2, 4, 8]
    """Soft tokens per chunk to draw from, once per optimizer step: the compression dial."""
    soft_token_weights: list[float] = []
    """How often each is drawn; by default equally."""
    reduction: Literal["mean", "sum"] = "mean"
    """Losses are means over tokens (chosen here) or sums over the batch (paper)."""

    @model_validator(mode="after")
    def _check(self) -> "ObjectivesSection":
        if self.language.fraction + self.understanding.fraction > 1:
            raise ValueError("language.fraction and understanding.fraction add up to more than 1")
        if not self.soft_tokens or min(self.soft_tokens) < 1:
            raise ValueError("soft_tokens must list numbers from 1 on")
        if self.soft_token_weights and len(self.soft_token_weights) != len(self.soft_tokens):
            raise ValueError("soft_token_weights needs one number per entry of soft_tokens")
        return self

    def fractions(self) -> dict[str, float]:
        """Share of the samples per objective."""
        language, understanding = self.language.fraction, self.understanding.fraction
        return {
            "language": language,
            "understanding": understanding,
            "reasoning": max(0.0, 1 - language - understanding),
        }


class TrainSection(_Section):
    """Optimization."""

    steps: int = Field(1000, ge=1)
    """Optimizer steps."""
    batch_size: int = Field(8, ge=1)
    """Samples per forward pass and device."""
    gradient_accumulation: int = Field(1, ge=1)
    """Forward passes per optimizer step."""
    learning_rate: float = Field(1e-4, gt=0)
    """Peak learning rate (paper: 1e-4)."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of the learning rate after the warm-up."""
    warmup_fraction: float = Field(0.05, ge=0, lt=1)
    """Share of the steps over which the learning rate rises."""
    weight_decay: float = Field(0.01, ge=0)
    """AdamW's weight decay."""
    adam_beta2: float = Field(0.95, gt=0, lt=1)
    """AdamW's second beta."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are clipped to this norm."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Autocast precision; auto takes bf16 where the device computes it, else fp32."""
    gradient_checkpointing: bool = False
    """Recompute the decoder's activations in the backward pass: less memory, more time."""
    cache_encoder_states_mb: int = Field(0, ge=0)
    """Memory for token states of a frozen encoder, so that a chunk seen again is not encoded again."""
    num_threads: int | None = Field(None, ge=1)
    """CPU threads; by default torch's choice."""
    dataloader_workers: int = Field(0, ge=0)
    """Processes that prepare samples."""
    log_every_steps: int = Field(10, ge=1)
    """How often losses are logged."""
    evaluate_every_steps: int = Field(200, ge=1)
    """How often held-out records are evaluated."""
    evaluate_samples: int = Field(64, ge=1)
    """Held-out samples per objective and evaluation."""
    save_every_steps: int = Field(200, ge=1)
    """How often a checkpoint to resume from is saved."""
    keep_checkpoints: int = Field(2, ge=1)
    """Checkpoints to keep, the best one not counted."""

    @model_validator(mode="after")
    def _check(self) -> "TrainSection":
        if self.save_every_steps % self.evaluate_every_steps:
            raise ValueError(
                f"save_every_steps={self.save_every_steps} must be a multiple of evaluate_every_steps="
                f"{self.evaluate_every_steps}, so that the best evaluated weights are saved"
            )
        return self


class Recipe(_Section):
    """A resolved training run."""

    name: str
    """Name of the run."""
    stage: str = ""
    """Name of the stage, where the recipe has several."""
    output: str = ""
    """Folder of the run; by default runs/NAME. A stage writes to a sub-folder."""
    seed: int = 0
    """Fixes initial weights, data order and every draw."""
    init_from: str | None = None
    """Checkpoint to start from; a stage starts from the one before it."""
    encoder: EncoderSection = EncoderSection()
    decoder: DecoderSection
    adapter: AdapterSection = AdapterSection()
    chunking: ChunkingSection = ChunkingSection()
    data: DataSection
    objectives: ObjectivesSection = ObjectivesSection()
    train: TrainSection = TrainSection()

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        if (self.decoder.source is None) == (self.decoder.new is None):
            raise ValueError("give one of decoder.source and decoder.new")
        if max(self.objectives.soft_tokens) > self.adapter.max_soft_tokens:
            raise ValueError(
                f"objectives.soft_tokens has {max(self.objectives.soft_tokens)}, adapter.max_soft_tokens is "
                f"{self.adapter.max_soft_tokens}"
            )
        return self

    @property
    def folder(self) -> Path:
        """Where this run, or this stage of it, writes."""
        base = Path(self.output or Path("runs") / self.name)
        return base / self.stage if self.stage else base


def load_recipe(
    path: str | os.PathLike[str], overrides: Sequence[str] = (), data: str | os.PathLike[str] | None = None
) -> list[Recipe]:
    """Read a recipe: one run per stage, in order; a recipe without stages is one run.

    Args:
        path: YAML file.
        overrides: `key.sub=value` with YAML values; they win over the file, in every stage. `STAGE:key.sub=value`
            changes one stage.
        data: Folder in which relative data paths are looked up; by default the recipe's own.

    Raises:
        E2LLMError: For an unknown key or a bad value, with its name and what is allowed.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"no such recipe: {file}")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise E2LLMError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise E2LLMError(f"{file}: a recipe is a mapping of keys, got {type(content).__name__}")
    stages = content.pop("stages", None) or [{}]
    if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
        raise E2LLMError(f"{file}: stages must be a list of mappings")
    recipes: list[Recipe] = []
    for stage in stages:
        merged = merge(content, stage)
        for override in overrides:
            apply_override(merged, override)
        recipe = validate(merged, str(file))
        resolve_data(recipe, file.parent if data is None else Path(data))
        if recipes and recipe.init_from is None:
            recipe.init_from = str(recipes[-1].folder / "final")
        recipes.append(recipe)
    return recipes


def validate(content: dict[str, Any], subject: str) -> Recipe:
    """Check a recipe's keys and values; every problem in one line."""
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        problems = []
        for item in error.errors():
            key = ".".join(str(part) for part in item["loc"])
            what = "unknown key" if item["type"] == "extra_forbidden" else item["msg"].removeprefix("Value error, ")
            problems.append(f"{key}: {what}" if key else what)
        raise E2LLMError(f"{subject}: {'; '.join(problems)}") from error


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy of nested mappings with changes laid over; lists and values are replaced whole."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def apply_override(content: dict[str, Any], override: str) -> None:
    """Apply one `[stage:]key.sub=value` in place."""
    target, equals, text = override.partition("=")
    stage, colon, key = target.rpartition(":")
    if not equals or not key:
        raise E2LLMError(f"--set takes key=value, got {override!r}")
    if colon and stage != content.get("stage"):
        return
    *parents, last = key.split(".")
    for parent in parents:
        content[parent] = dict(content.get(parent) or {})
        content = content[parent]
    content[last] = yaml.safe_load(text)


def resolve_data(recipe: Recipe, folder: Path) -> None:
    """Look relative data paths up in a folder; they come out absolute, so that the saved recipe can be run again."""
    for file in [*recipe.data.train, *recipe.data.validation]:
        if not Path(file.path).is_absolute():
            file.path = os.path.abspath(folder / file.path)
