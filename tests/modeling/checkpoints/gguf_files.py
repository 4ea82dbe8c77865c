"""Tiny GGUF files, written as llama.cpp's converter writes them."""

import json

import gguf
import torch

from tiny_models import WINDOW, tiny_decoder, tiny_decoder_tokenizer

CHAT_TEMPLATE = (
    "{% for message in messages %}<s>{{ message['role'] }}: {{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)
_LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def file_name_of(name):
    if name in _NAMES:
        return _NAMES[name]
    _, _, layer, rest = name.split(".", 3)
    module, kind = rest.rsplit(".", 1)
    return f"blk.{layer}.{_LAYER_NAMES[module]}.{kind}"


def permuted(weight, heads):
    """The rows of queries or keys in llama.cpp's order of rotary pairs."""
    half = weight.shape[0] // heads // 2
    return weight.reshape(heads, 2, half, -1).swapaxes(1, 2).reshape(weight.shape)


def add_tokenizer(writer):
    tokenizer = tiny_decoder_tokenizer()
    core = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    words = sorted(core["vocab"], key=core["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(words)
    writer.add_token_types([3 if word in ("<pad>", "<s>", "</s>") else 1 for word in words])
    writer.add_token_merges([item if isinstance(item, str) else " ".join(item) for item in core["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_chat_template(CHAT_TEMPLATE)


def write_gguf(file, *, family="llama", architecture=None, quantized=(), leave_out=(), extra=None, edit=None):
    """Write `tiny_decoder(family)` and its tokenizer; tensors in `quantized` as Q8_0, all others as they are.

    Args:
        file: Where to.
        family: `llama`, `qwen2` or `qwen3`.
        architecture: What the file says it holds, if not that.
        quantized: The file's names of tensors to quantize.
        leave_out: Of tensors to leave out.
        extra: More tensors, by name.
        edit: Called with the writer before it writes.
    """
    model = tiny_decoder(family)
    config = model.config
    writer = gguf.GGUFWriter(str(file), architecture or family)
    writer.add_context_length(WINDOW)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    if family == "llama":
        writer.add_rope_dimension_count(config.head_dim)
    if family == "qwen3":
        writer.add_key_length(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    add_tokenizer(writer)
    if edit is not None:
        edit(writer)
    for name, tensor in model.state_dict().items():
        given = file_name_of(name)
        weight = tensor.to(torch.float32)
        if family == "llama" and ".attn_q." in given:
            weight = permuted(weight, config.num_attention_heads)
        if family == "llama" and ".attn_k." in given:
            weight = permuted(weight, config.num_key_value_heads)
        if given in leave_out or (given == "output.weight" and config.tie_word_embeddings):
            continue
        values = weight.contiguous().numpy()
        if given in quantized:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(given, gguf.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(given, values)
    for name, values in (extra or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def with_type_number(file, tensor, number):
    """Say in a file that a tensor of two dimensions is of another GGML type."""
    content = bytearray(file.read_bytes())
    place = content.index(tensor.encode()) + len(tensor) + 4 + 16
    content[place : place + 4] = number.to_bytes(4, "little")
    file.write_bytes(content)
    return file
