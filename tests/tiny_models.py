"""Tiny random models and tokenizers, built in memory: two layers, 32 wide, no hub."""

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from e2llm import E2LLMForConditionalGeneration, E2LLMProcessor

WIDTH = 32
ENCODER_VOCAB = 256
DECODER_VOCAB = 320
WINDOW = 512

TEXT = (
    "The harbour lights went out at nine. Mira counted the boats again, and there were seven of them. "
    "Nobody had told her the key was under the blue stone. Where is the key? It is under the stone. "
)

_SHAPE = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": WINDOW,
}
# Family: arguments of its configuration. Random weights of the default size (0.02) make nearly equal logits;
# the larger initializer makes differences between two models visible.
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": {**_SHAPE},
    "xlm-roberta": {**_SHAPE, "pad_token_id": 1},
    "modernbert": {**_SHAPE, "pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "local_attention": 8},
    "distilbert": {
        "dim": WIDTH,
        "hidden_dim": 48,
        "n_layers": 2,
        "n_heads": 4,
        "max_position_embeddings": WINDOW,
    },
    "mpnet": {**_SHAPE, "pad_token_id": 1},
    "nomic_bert": {**_SHAPE},
    # Causal embedding models: Qwen3-Embedding, E5-Mistral.
    "qwen3": {**_SHAPE, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0},
    "mistral": {**_SHAPE, "num_key_value_heads": 2, "sliding_window": 16, "pad_token_id": 0},
}
_GROUPED = {**_SHAPE, "num_key_value_heads": 2}
DECODERS: dict[str, dict[str, Any]] = {
    "llama": {**_GROUPED},
    "qwen2": {**_GROUPED, "tie_word_embeddings": True},
    "qwen3": {**_GROUPED, "head_dim": 8},
    "mistral": {**_GROUPED, "sliding_window": 16},
    "gemma2": {**_GROUPED, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 16},
    "gemma3_text": {**_GROUPED, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 16},
    "phi3": {**_GROUPED, "pad_token_id": 0, "original_max_position_embeddings": WINDOW},
    "gpt2": {"n_embd": WIDTH, "n_layer": 2, "n_head": 4, "n_positions": WINDOW},
    "opt": {
        "hidden_size": WIDTH,
        "ffn_dim": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": WINDOW,
        "word_embed_proj_dim": 24,
    },
    "gpt_neox": {**_SHAPE},
    "smollm3": {**_GROUPED, "no_rope_layer_interval": 2},
}


def tiny_encoder(family: str = "bert", **overrides: Any) -> PreTrainedModel:
    """A random encoder of a family, the same one every time."""
    torch.manual_seed(1)
    options = {"vocab_size": ENCODER_VOCAB, "initializer_range": 0.3, **ENCODERS[family], **overrides}
    return AutoModel.from_config(AutoConfig.for_model(family, **options)).eval()


def tiny_decoder(family: str = "llama", **overrides: Any) -> PreTrainedModel:
    """A random causal LM of a family, the same one every time."""
    torch.manual_seed(2)
    options: dict[str, Any] = {
        "vocab_size": DECODER_VOCAB,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    options |= {"init_std" if family == "opt" else "initializer_range": 0.3}
    config = AutoConfig.for_model(family, **{**options, **DECODERS[family], **overrides})
    return AutoModelForCausalLM.from_config(config).eval()


def tiny_decoder_tokenizer(chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer; `<pad>`, `<s>`, `</s>` are ids 0, 1, 2, and `<s>` starts a text."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=DECODER_VOCAB - 1,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([TEXT] * 4, trainer)
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        chat_template=chat_template,
    )


def tiny_encoder_tokenizer(max_tokens: int = 64) -> PreTrainedTokenizerFast:
    """A BERT-style WordPiece tokenizer whose words are single characters, so that nothing is unknown."""
    characters = sorted({chr(code) for code in range(33, 127)})
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *characters,
        *(f"##{item}" for item in characters),
    ]
    core = Tokenizer(
        models.WordPiece({piece: index for index, piece in enumerate(pieces)}, unk_token="[UNK]")
    )
    core.normalizer = normalizers.BertNormalizer(lowercase=False)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        unk_token="[UNK]",
        mask_token="[MASK]",
        model_max_length=max_tokens,
    )


def tiny_processor(**settings: Any) -> E2LLMProcessor:
    """A processor over the tiny tokenizers, chunks of at most 48 characters, 2 soft tokens each."""
    options: dict[str, Any] = {"chunk_size_chars": 48, "num_soft_tokens": 2, **settings}
    return E2LLMProcessor.from_parts(
        encoder_tokenizer=options.pop("encoder_tokenizer", None) or tiny_encoder_tokenizer(),
        decoder_tokenizer=options.pop("decoder_tokenizer", None) or tiny_decoder_tokenizer(),
        **options,
    )


def tiny_model(
    encoder: str | PreTrainedModel = "bert", decoder: str | PreTrainedModel = "llama", **options: Any
) -> E2LLMForConditionalGeneration:
    """A model of two families (or two instances) with a new adapter of up to 4 soft tokens."""
    torch.manual_seed(3)
    settings: dict[str, Any] = {
        "adapter": "attention",
        "max_soft_tokens": 4,
        "decoder_tokenizer": tiny_decoder_tokenizer(),
        **options,
    }
    return E2LLMForConditionalGeneration.from_parts(
        tiny_encoder(encoder) if isinstance(encoder, str) else encoder,
        tiny_decoder(decoder) if isinstance(decoder, str) else decoder,
        **settings,
    )


def assert_same_model(one: torch.nn.Module, other: torch.nn.Module, inputs: dict[str, Any]) -> None:
    """Every tensor is bitwise equal, and the logits are the same.

    The logits may differ by rounding: weights read from a file lie at other addresses, and the matrix kernels
    of a CPU take other paths for them.
    """
    tensors = [dict([*model.named_parameters(), *model.named_buffers()]) for model in (one, other)]
    assert list(tensors[0]) == list(tensors[1])
    for name, value in tensors[0].items():
        assert torch.equal(value, tensors[1][name]), name
    with torch.no_grad():
        torch.testing.assert_close(one(**inputs).logits, other(**inputs).logits, atol=1e-4, rtol=1e-4)


TRAINED_ON = {"2": 9, "4": 9, "8": 9, "one": 9, "text": 9}


def tiny_pooling_model(
    trained_on: dict[str, int] | None = TRAINED_ON, **options: Any
) -> E2LLMForConditionalGeneration:
    """A model with the `pooling` adapter whose MLP adds something, as after training at 2, 4, 8 and `one`."""
    model = tiny_model(adapter="pooling", encoder_layers=[0, 2], **{"finest_rate": 2, **options})
    torch.nn.init.normal_(model.adapter.head.down.weight, std=0.1, generator=torch.Generator().manual_seed(1))
    model.config.trained_on = None if trained_on is None else dict(trained_on)
    return model
