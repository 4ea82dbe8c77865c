"""Memory, time and cost of a run on paper, from the real-size model that `blueprint.draw` makes.

Shapes: B samples per forward pass, L decoder positions, D decoder width, F feed-forward width, C chunks,
T encoder tokens per chunk, E encoder width, V vocabulary. "Keys" is the number of heads that hold keys times
their size. Exact: weights, gradients, optimizer states. By formula: activations, floating-point operations.
Guessed: `sample_sizes.Assumptions` and prices.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from e2llm.modeling.model import E2LLMForConditionalGeneration
from e2llm.training.blueprint import draw, matrices, quantized_matrices
from e2llm.training.devices import Device
from e2llm.training.sample_sizes import Assumptions, SampleSize, longest_samples, mean_samples
from e2llm.training.schema import Recipe

GIB = 2**30
_NF4_BLOCK, _NF4_GROUP = 64, 256
_NF4_TABLES = 4 * (16 + 256 + 1)  # the 16 values of nf4, the 256 of its constants, their mean; float32
# Bytes that autograd keeps per layer and position, as (a, b, c) of a*width + b*keys + c*feed-forward, counted
# on Qwen2 and BERT layers with and without LoRA (the larger), with fused attention and without dropout.
_DECODER_BYTES = {"half": (25, 4, 8), "mixed": (32, 6, 11), "float32": (32, 8, 16)}
_ENCODER_BYTES = {"half": (32, 0, 6), "mixed": (32, 0, 6), "float32": (40, 0, 8)}


@dataclass(frozen=True)
class Estimate:
    """What a stage needs on paper.

    Attributes:
        parameters: `{part: (trainable, all)}`.
        memory: Bytes per device, by what takes them.
        longest: The longest sample of each objective.
        mean: The mean sample of each objective.
        flops_per_sample: Floating-point operations of the mean sample, by part; forward, recomputation and
            backward.
        flops_per_step: Those of one optimizer step on one device.
        steps: Optimizer steps.
    """

    parameters: dict[str, tuple[int, int]]
    memory: dict[str, float]
    longest: dict[str, SampleSize]
    mean: dict[str, SampleSize]
    flops_per_sample: dict[str, float]
    flops_per_step: float
    steps: int

    @property
    def memory_gib(self) -> float:
        """All of a device's memory, in GiB."""
        return sum(self.memory.values()) / GIB

    def hours(self, device: Device, guess: Assumptions) -> float:
        """`steps * flops_per_step / (peak * share)` in hours; more devices read more samples in that time."""
        return self.steps * self.flops_per_step / (device.peak_flops * guess.peak_share) / 3600


def estimate(
    recipe: Recipe, guess: Assumptions | None = None, *, num_devices: int = 1, precision: str = "bf16"
) -> Estimate:
    """Estimate a run, or one stage of it.

    Args:
        recipe: The resolved recipe.
        guess: What is taken for granted.
        num_devices: Devices, each with a whole copy of the model (data parallel).
        precision: What `train.precision: auto` comes to on the device.

    Raises:
        E2LLMError: If the dimensions of a part are not known, or the parts do not fit each other.
    """
    guess = guess or Assumptions()
    model = draw(recipe)
    precision = precision if recipe.train.precision == "auto" else recipe.train.precision
    window = getattr(model.config.text_config, "max_position_embeddings", None)
    longest, mean = longest_samples(recipe, window, guess), mean_samples(recipe, window, guess)
    memory = {
        **static_memory(recipe, model, num_devices=num_devices, is_mixed=precision != "fp32"),
        **activation_memory(recipe, model, longest, is_mixed=precision != "fp32"),
        "CUDA itself": guess.overhead_gib * GIB,
    }
    fractions = recipe.objectives.fractions()
    flops: dict[str, float] = {}
    for name, sample in mean.items():
        for part, value in sample_flops(recipe, model, sample).items():
            flops[part] = flops.get(part, 0.0) + fractions[name] * value
    samples = recipe.train.batch_size * recipe.train.gradient_accumulation
    counts = {
        part: (
            sum(p.numel() for p in module.parameters() if p.requires_grad),
            sum(p.numel() for p in module.parameters()),
        )
        for part, module in _parts(model).items()
    }
    return Estimate(counts, memory, longest, mean, flops, samples * sum(flops.values()), recipe.train.steps)


def _parts(model: E2LLMForConditionalGeneration) -> dict[str, nn.Module]:
    return {"encoder": model.chunk_encoder, "adapter": model.adapter, "decoder": model.language_model}


# --- memory -----------------------------------------------------------------------------------------------


def nf4_bytes(num_values: int) -> int:
    """Bytes of a matrix in nf4 with double quantization.

    `n/2 + n/64 + 4*ceil(n/64/256) + tables`: 4 bits a value, one byte per block of 64, one float32 per 256
    blocks, and the tables of values.
    """
    blocks = -(-num_values // _NF4_BLOCK)
    return -(-num_values // 2) + blocks + 4 * -(-blocks // _NF4_GROUP) + _NF4_TABLES


def static_memory(
    recipe: Recipe, model: E2LLMForConditionalGeneration, *, num_devices: int = 1, is_mixed: bool = False
) -> dict[str, float]:
    """Bytes that do not depend on the batch.

    Weights in the precision that they are held in (what trains: float32, so there is no second master copy);
    a gradient of the same size for each that trains, and once more where several devices add theirs up; two
    float32 moments of AdamW for each. `train.parallel` shares out what it says, in equal parts. Under
    autocast a half-precision copy of what trains.
    """
    quantized = quantized_matrices(recipe, model)
    ids = {id(weight) for name, weight in matrices(model.language_model).items() if name in quantized}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = float(sum(p.numel() * p.element_size() for p in trained))
    memory = {
        f"{part} weights": float(
            sum(
                nf4_bytes(p.numel()) if id(p) in ids else p.numel() * p.element_size()
                for p in module.parameters()
            )
        )
        for part, module in _parts(model).items()
    }
    parallel = recipe.train.parallel
    if parallel in ("fsdp2", "zero3"):
        memory = {name: value / num_devices for name, value in memory.items()}
    share = 1 if parallel == "ddp" else num_devices
    memory["gradients"] = gradients / share
    if num_devices > share:
        memory["gradients to add up"] = gradients
    memory["optimizer states"] = 8.0 * sum(p.numel() for p in trained) / share
    if is_mixed:
        memory["half-precision copies"] = 2.0 * sum(
            p.numel() for p in trained if p.dtype == torch.float32 and p.dim() > 1
        )
    return memory


def layer_bytes(config: Any, kind: str, table: dict[str, tuple[int, int, int]]) -> float:
    """Bytes that autograd keeps of one layer for each position: `a*width + b*keys + c*feed-forward`."""
    width = config.hidden_size
    heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or width // heads
    keys = head_size * (getattr(config, "num_key_value_heads", None) or heads)
    feed_forward = getattr(config, "intermediate_size", None) or 4 * width
    a, b, c = table[kind]
    return float(a * width + b * keys + c * feed_forward)


def activation_memory(
    recipe: Recipe,
    model: E2LLMForConditionalGeneration,
    longest: dict[str, SampleSize],
    *,
    is_mixed: bool = False,
) -> dict[str, float]:
    """Bytes that the longest sample adds, batch_size times.

    Decoder: `B*L*layers*layer_bytes`, or with checkpointing `B*L*(layers*D*itemsize + layer_bytes)`:
    the input of each layer, and one layer at a time. Encoder: one pass of `encoder.batch_tokens` and
    `encoder.unchecked_tokens` through all of its layers if it trains, else the token states `[C, T, E]` in
    float32 and one layer.
    Adapter: keys and values of one pass. Logits: those of the labelled positions in half precision and
    float32, each with its gradient.
    """
    train = recipe.train
    text, encoder = model.config.text_config, model.config.encoder_config
    held = model.get_input_embeddings().weight
    kind = "half" if held.element_size() == 2 else "mixed" if is_mixed else "float32"
    of_layer = layer_bytes(text, kind, _DECODER_BYTES)
    stream = 2 if kind == "half" else 4
    layers = text.num_hidden_layers
    positions = train.batch_size * max(sample.positions for sample in longest.values())
    per_position = (
        layers * text.hidden_size * stream + of_layer if train.gradient_checkpointing else layers * of_layer
    )
    memory = {"decoder activations": positions * per_position}
    tokens = train.batch_size * max(sample.chunks * sample.chunk_tokens for sample in longest.values())
    in_pass = min(tokens, model.config.encoder_batch_tokens)
    encoder_layer = layer_bytes(encoder, "mixed" if is_mixed else "float32", _ENCODER_BYTES)
    if trains(model.chunk_encoder):
        kept = min(tokens, in_pass + recipe.encoder.unchecked_tokens)
        memory["encoder activations"] = kept * encoder.num_hidden_layers * encoder_layer
    else:
        states = tokens * encoder.hidden_size * 4
        memory["encoder activations"] = in_pass * encoder_layer + (states if trains(model.adapter) else 0)
    width = held.shape[1]
    memory["adapter activations"] = in_pass * 2 * width * (2 if is_mixed else 4)
    soft_tokens = train.batch_size * max(sample.chunks * sample.soft_tokens for sample in longest.values())
    memory["soft tokens"] = soft_tokens * width * 8
    labelled = train.batch_size * max(sample.labelled for sample in longest.values())
    memory["logits"] = labelled * text.vocab_size * (14 if is_mixed or kind == "half" else 20)
    return memory


def trains(part: nn.Module) -> bool:
    """Whether anything of a part trains."""
    return any(parameter.requires_grad for parameter in part.parameters())


# --- time -------------------------------------------------------------------------------------------------


def sample_flops(
    recipe: Recipe, model: E2LLMForConditionalGeneration, sample: SampleSize
) -> dict[str, float]:
    """Floating-point operations of one sample in training, by part; a multiply-add counts as two.

    A pass of N positions through matrices of M weights takes `2*M*N`, attention over L positions
    `4*L*L*heads*head_size` per layer (nothing is saved by the causal mask). The backward pass takes the
    forward's operations for the gradients of the inputs, as much again for those of the matrices that train,
    and twice attention's. What is checkpointed runs forward once more (every pass of an
    encoder that trains, although `encoder.unchecked_tokens` spares some). Of the encoder's backward pass the
    share `encoder.backward_fraction` is done. The head runs at labelled positions.
    """
    flops: dict[str, float] = {}
    if sample.chunks:
        encoder_trains, adapter_trains = trains(model.chunk_encoder), trains(model.adapter)
        forward, weights = _linear_flops(model.chunk_encoder, sample.chunks * sample.chunk_tokens)
        attention = sample.chunks * _attention_flops(model.config.encoder_config, sample.chunk_tokens)
        again = 2 * (forward + attention) + weights + attention if encoder_trains else 0.0
        flops["encoder"] = forward + attention + recipe.encoder.backward_fraction * again
        once = _adapter_flops(model, sample)
        # forward, recomputation, gradients of the weights, and of the states where the encoder trains
        recomputed = encoder_trains or adapter_trains
        flops["adapter"] = once * (1 + recomputed + encoder_trains + adapter_trains)
    flops["decoder"] = decoder_flops(recipe, model, sample)
    return flops


def decoder_flops(recipe: Recipe, model: E2LLMForConditionalGeneration, sample: SampleSize) -> float:
    """Forward, backward and recomputation of the decoder; see `sample_flops`."""
    decoder = model.language_model
    head = decoder.get_output_embeddings()
    forward, weights = _linear_flops(decoder, sample.positions, without=head)
    attention = _attention_flops(model.config.text_config, sample.positions)
    head_forward = 2.0 * head.weight.numel() * sample.labelled if head is not None else 0.0
    head_weights = head_forward if head is not None and head.weight.requires_grad else 0.0
    recomputed = forward + attention if recipe.train.gradient_checkpointing else 0.0
    backward = forward + weights + 2 * attention + head_forward + head_weights
    return forward + attention + head_forward + recomputed + backward


def _linear_flops(part: nn.Module, positions: float, without: Any = None) -> tuple[float, float]:
    """Forward operations of a part's matrices, and those for the gradients of the matrices that train."""
    skipped = None if without is None else without.weight
    weights = [weight for weight in matrices(part).values() if weight is not skipped]
    forward = 2.0 * positions * sum(weight.numel() for weight in weights)
    return forward, 2.0 * positions * sum(weight.numel() for weight in weights if weight.requires_grad)


def _attention_flops(config: Any, length: float) -> float:
    """Forward operations of all layers' attention over one sequence: scores and their sums."""
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width = config.num_attention_heads * head_size
    return 4.0 * length * length * float(width * config.num_hidden_layers)


def _adapter_flops(model: E2LLMForConditionalGeneration, sample: SampleSize) -> float:
    """Forward operations of the adapter: keys and values of every token, the rest at every soft token."""
    total = 0.0
    for name, weight in matrices(model.adapter).items():
        is_per_token = name in ("key_projection", "value_projection")
        if name == "query_projection":  # of the queries alone, once for all chunks
            continue
        rows = sample.chunks * (sample.chunk_tokens if is_per_token else sample.soft_tokens)
        total += 2.0 * rows * weight.numel()
    if hasattr(model.adapter, "queries"):
        width = model.get_input_embeddings().weight.shape[1]
        total += 4.0 * sample.chunks * sample.chunk_tokens * sample.soft_tokens * width
    return total
