"""Decoders as encoders: causal as they are, or with attention in both directions."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer

from e2llm.errors import E2LLMError
from e2llm.modeling.encoder_attention import (
    check_bidirectional,
    encoder_options,
    prepare_encoder,
    sees_later_tokens,
)
from tiny_models import DECODER_VOCAB, DECODERS, TEXT, tiny_encoder

FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "gemma3_text")
KERNELS = ("sdpa", "eager")
LENGTH = 12


def causal_encoder(family, kernel="sdpa", **overrides):
    torch.manual_seed(5)
    options = {"vocab_size": DECODER_VOCAB, "initializer_range": 0.3, **DECODERS[family], **overrides}
    config = AutoConfig.for_model(family, **options)
    return AutoModel.from_config(config, attn_implementation=kernel).eval()


def states(encoder, ids, mask=None, *, bidirectional):
    prepare_encoder(encoder, bidirectional)
    with torch.no_grad():
        output = encoder(input_ids=ids, attention_mask=mask, **encoder_options(encoder, bidirectional))
    return output.last_hidden_state


def chunk(length=LENGTH):
    return torch.arange(5, 5 + length)[None]


def padded(ids, by=7):
    """A chunk with padding on the right, together with a full one, and their mask."""
    mask = torch.ones(2, ids.shape[1] + by, dtype=torch.long)
    mask[0, ids.shape[1] :] = 0
    batch = torch.arange(50, 50 + ids.shape[1] + by).repeat(2, 1)
    batch[0, : ids.shape[1]] = ids[0]
    return batch, mask


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("with_mask", ["no mask", "ones", "padded"])
def test_a_later_token_changes_an_earlier_state_only_if_bidirectional(family, kernel, with_mask):
    encoder = causal_encoder(family, kernel)
    ids, other = chunk(), chunk()
    other[0, -1] = 99
    mask, other_mask = (None, None) if with_mask == "no mask" else (torch.ones_like(ids),) * 2
    if with_mask == "padded":
        (ids, mask), (other, other_mask) = padded(ids), padded(other)
    for bidirectional in (False, True):
        first = states(encoder, ids, mask, bidirectional=bidirectional)[0, : LENGTH - 1]
        second = states(encoder, other, other_mask, bidirectional=bidirectional)[0, : LENGTH - 1]
        changed = (first - second).abs().amax(-1)
        assert (changed > 1e-3).all() if bidirectional else (changed < 1e-5).all()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_padding_never_matters(family, kernel, bidirectional):
    encoder = causal_encoder(family, kernel)
    alone = states(encoder, chunk(), bidirectional=bidirectional)
    ids, mask = padded(chunk())
    batch = states(encoder, ids, mask, bidirectional=bidirectional)
    assert torch.allclose(batch[:1, :LENGTH], alone, atol=1e-5)
    ids[0, LENGTH:] = 3
    again = states(encoder, ids, mask, bidirectional=bidirectional)
    assert torch.allclose(again[0, :LENGTH], batch[0, :LENGTH], atol=1e-5)
    assert torch.allclose(again[1], batch[1], atol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_as_it_is_an_encoder_gives_what_the_plain_model_gives(family, kernel):
    encoder = causal_encoder(family, kernel)
    ids, mask = padded(chunk())
    with torch.no_grad():
        plain = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        unpadded = encoder(input_ids=ids).last_hidden_state
    assert torch.equal(states(encoder, ids, mask, bidirectional=False), plain)
    assert torch.equal(states(encoder, ids, bidirectional=False), unpadded)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", ["mistral", "gemma3_text"])
def test_a_sliding_window_reaches_to_both_sides(family, kernel):
    encoder = causal_encoder(family, kernel, sliding_window=4, num_hidden_layers=1)
    ids, other = chunk(30), chunk(30)
    other[0, 15] = 99
    pair = [states(encoder, item, bidirectional=True)[0] for item in (ids, other)]
    changed = ((pair[0] - pair[1]).abs().amax(-1) > 1e-5).nonzero().flatten().tolist()
    assert changed == list(range(15 - 4, 15 + 4 + 1))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_an_encoder_of_berts_kind_stays_as_it_is(bidirectional):
    encoder = tiny_encoder()
    ids, mask = padded(chunk())
    with torch.no_grad():
        plain = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    assert torch.equal(states(encoder, ids, mask, bidirectional=bidirectional), plain)
    assert sees_later_tokens(encoder, bidirectional)


def test_no_keys_and_values_are_kept():
    encoder = causal_encoder("qwen3")
    assert encoder(input_ids=chunk(), **encoder_options(encoder, False)).past_key_values is None


def test_threads_do_not_undo_each_others_setting():
    encoder = causal_encoder("qwen3")
    wanted = states(encoder, chunk(), bidirectional=True)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: states(encoder, chunk(), bidirectional=True), range(40)))
    assert all(torch.allclose(item, wanted, atol=1e-5) for item in found)
    assert encoder.config.is_causal is False


def test_gradients_reach_later_tokens_under_checkpointing():
    encoder = causal_encoder("qwen3")
    prepare_encoder(encoder, True)
    embeds = torch.randn(1, LENGTH, encoder.config.hidden_size, requires_grad=True)

    def read(item):
        return encoder(inputs_embeds=item, **encoder_options(encoder, True)).last_hidden_state

    torch.utils.checkpoint.checkpoint(read, embeds, use_reentrant=False)[0, 0].sum().backward()
    assert embeds.grad[0, -1].abs().max() > 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_a_probe_finds_out_what_an_encoder_sees(family):
    encoder = causal_encoder(family).train()
    assert not sees_later_tokens(encoder, False)
    check_bidirectional(encoder)
    assert encoder.training


class Ignorant(torch.nn.Module):
    """A causal model that takes any argument and heeds none."""

    config = SimpleNamespace(model_type="ignorant")

    def __init__(self):
        super().__init__()
        self.embeddings = torch.nn.Embedding(9, 4)

    def get_input_embeddings(self):
        return self.embeddings

    def forward(self, input_ids, attention_mask=None, **_):
        return SimpleNamespace(last_hidden_state=self.embeddings(input_ids).cumsum(1))


class Strict(Ignorant):
    """The same, of the arguments that it knows."""

    def forward(self, input_ids, attention_mask=None):
        return super().forward(input_ids)


@pytest.mark.parametrize(
    ("encoder", "told"), [(Ignorant, "its tokens do not see later ones"), (Strict, "does not take is_causal")]
)
def test_an_encoder_that_stays_causal_is_refused(encoder, told):
    with pytest.raises(E2LLMError, match=rf"\(ignorant\) cannot be run bidirectionally: .*{told}"):
        check_bidirectional(encoder())


@pytest.mark.parametrize("tokenizer_class", ["Qwen2Tokenizer", "PreTrainedTokenizerFast"])
def test_a_tokenizer_that_appends_its_end_token_goes_through(tmp_path, tokenizer_class):
    """Qwen3-Embedding ends every text with `<|endoftext|>`, which is its padding as well."""
    import json

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    end = "<|endoftext|>"
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=[end], initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator([TEXT], trainer)
    append = processors.TemplateProcessing(single=f"$A {end}", pair=f"$A $B {end}", special_tokens=[(end, 0)])
    core.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), append])
    core.save(str(tmp_path / "tokenizer.json"))
    settings = {"tokenizer_class": tokenizer_class, "eos_token": end, "pad_token": end}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    causal_encoder("qwen3").config.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    texts = ["the key", f"the key {end} is under the stone"]
    rows = tokenizer(texts, split_special_tokens=True).input_ids
    assert [row.count(0) for row in rows] == [1, 1]  # a text's own end token is text
    assert [row[-1] for row in rows] == [0, 0]
    batch = tokenizer(texts, padding=True, padding_side="right", split_special_tokens=True)
    assert [sum(mask) for mask in batch.attention_mask] == [len(row) for row in rows]
    assert batch.input_ids[0][: len(rows[0])] == rows[0]
    assert tokenizer.num_special_tokens_to_add(pair=False) == 1
