"""The rate as the dial: averages of neighbours, coarser from finer, and a number per chunk."""

import pytest
import torch
from safetensors.torch import load_file

from e2llm import E2LLMForConditionalGeneration, E2LLMProcessor
from e2llm.errors import E2LLMError
from e2llm.modeling.rates import (
    RATES,
    check_rate,
    coarsen,
    count_soft_tokens,
    encoder_tokens,
    group_means,
    rates_of_counts,
)
from tiny_models import TEXT, tiny_model, tiny_processor

FINER = [rate for rate in RATES if rate != 1]


@pytest.fixture
def states():
    return torch.randn(3, 7, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def mask():
    return torch.tensor([[1] * 7, [1, 1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0]])


def pooling_model(**options):
    """A tiny pooling model whose MLP adds something, as after training."""
    model = tiny_model(adapter="pooling", encoder_layers=[0, 2], finest_rate=1, **options)
    torch.nn.init.normal_(model.adapter.head.down.weight, std=0.1, generator=torch.Generator().manual_seed(1))
    return model


def test_groups_are_averaged_from_the_left_and_the_last_by_its_own_length():
    states = torch.tensor([[[1.0], [3.0], [10.0], [99.0]]])
    means, is_group = group_means(states, torch.tensor([[1, 1, 1, 0]]), 2)
    assert means.tolist() == [[[2.0], [10.0]]]
    assert is_group.tolist() == [[True, True]]


@pytest.mark.parametrize("rate", FINER)
def test_kept_states_made_coarser_equal_reading_at_that_rate(states, mask, rate):
    size = min(encoder_tokens(rate), 2**20)
    wanted, is_group = group_means(states, mask, size)
    num_tokens = mask.sum(dim=1)
    for finest in (1, 2):
        if size % finest == 0:
            kept, _ = group_means(states, mask, finest)
            made = coarsen(kept, num_tokens, torch.full((3,), size), finest)
            torch.testing.assert_close(made, wanted[is_group], atol=1e-5, rtol=0)


def test_long_groups_are_averaged_exactly_in_half_precision():
    states = torch.rand(1, 600, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    means = coarsen(states, torch.tensor([600]), torch.tensor([1024]), 1)
    torch.testing.assert_close(means.float(), states.float().mean(dim=1), atol=2e-3, rtol=0)


def test_a_number_of_soft_tokens_belongs_to_one_rate():
    for length in range(1, 70):
        seen = {}
        for rate in RATES:
            count = count_soft_tokens(length, rate)
            found = int(rates_of_counts(torch.tensor([length]), torch.tensor([count]), 1)[0])
            assert -(-length // found) == count
            seen.setdefault(count, found)
            assert seen[count] == found


def test_a_number_that_no_rate_gives_is_refused():
    with pytest.raises(E2LLMError, match=r"9 encoder tokens cannot have 4 soft tokens; .* 9, 5, 3, 2, 1"):
        rates_of_counts(torch.tensor([9]), torch.tensor([4]), 1)


@pytest.mark.parametrize("value", [0, 3, -2, 1.0, "two", True, None])
def test_what_is_no_rate_is_refused(value):
    with pytest.raises(E2LLMError, match="power of two"):
        check_rate(value)


def test_a_rate_finer_than_what_is_kept_is_refused():
    with pytest.raises(E2LLMError, match="rate 2 is finer than the kept states, one per 4"):
        check_rate(2, finest=4)


@torch.no_grad()
def test_mixed_rates_equal_each_rate_alone():
    model, processor = pooling_model(), tiny_processor()
    chunks = [chunk.text for chunk in processor.split(TEXT)]
    inputs = processor.encode_chunk_texts(chunks)
    kept = model.encode_chunks(**inputs)
    lengths = inputs["chunk_attention_mask"].sum(dim=1)
    rates = [RATES[index % len(RATES)] for index in range(len(chunks))]
    numbers = torch.tensor(
        [count_soft_tokens(n, rate) for n, rate in zip(lengths.tolist(), rates, strict=True)]
    )
    mixed = model.soften(kept, lengths, numbers).split(numbers.tolist())
    for index, rate in enumerate(rates):
        alone = torch.tensor([count_soft_tokens(n, rate) for n in lengths.tolist()])
        wanted = model.soften(kept, lengths, alone).split(alone.tolist())[index]
        torch.testing.assert_close(mixed[index], wanted, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("rate", RATES)
def test_the_soft_tokens_of_a_finer_reading_equal_those_read_at_the_rate(rate):
    model, processor = pooling_model(), tiny_processor()
    inputs = processor.encode_chunk_texts([chunk.text for chunk in processor.split(TEXT)])
    mask = inputs["chunk_attention_mask"]
    lengths = mask.sum(dim=1)
    numbers = torch.tensor([count_soft_tokens(n, rate) for n in lengths.tolist()])
    stored = model.soften(model.encode_chunks(**inputs), lengths, numbers)
    means, is_group = group_means(
        model.encode_states(inputs["chunk_input_ids"], mask), mask, min(encoder_tokens(rate), 2**20)
    )
    fresh = model.adapter.head(model.adapter.projection(means[is_group]))
    torch.testing.assert_close(stored, fresh, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_batch_of_different_rates_and_raw_chunks_equals_its_samples():
    model, processor = pooling_model(), tiny_processor()
    chunks = [chunk.text for chunk in processor.split(TEXT)]
    samples = [
        processor.lay_out(chunks, "Where is the key?", "There.", rate=4, expand=[1]),
        processor.lay_out(chunks[:2], "Who?", "Mira.", rate=["one", 2]),
        processor.lay_out([], "Why?", "So."),
    ]
    batch = processor.collate(samples, with_labels=True)
    assert batch["chunk_num_soft_tokens"].tolist() == [
        number for sample in samples for number in sample.num_soft_tokens
    ]
    together = model(**batch).logits
    for row, sample in enumerate(samples):
        alone = model(**processor.collate([sample], with_labels=True)).logits[0]
        torch.testing.assert_close(together[row, -len(alone) :], alone, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_one_chunk_at_several_rates_is_read_once():
    model, processor = pooling_model(), tiny_processor()
    chunk = processor.split(TEXT)[0].text
    samples = [processor.lay_out([chunk], "Who?", "Mira.", rate=rate) for rate in (2, 8, "one")]
    batch = processor.collate(samples, with_labels=True)
    wanted = model(**batch).logits
    for name in ("chunk_input_ids", "chunk_attention_mask"):
        batch[name] = batch[name][:1]
    torch.testing.assert_close(
        model(**batch, chunk_index=torch.tensor([0, 0, 0])).logits, wanted, atol=1e-5, rtol=1e-5
    )


def test_placeholders_that_do_not_match_the_numbers_are_refused():
    model, processor = pooling_model(), tiny_processor()
    batch = processor.collate([processor.lay_out([TEXT[:40], TEXT[40:80]], "Who?", rate=[2, 4])])
    batch["chunk_num_soft_tokens"] = batch["chunk_num_soft_tokens"] + 1
    with pytest.raises(E2LLMError, match="placeholders, but chunk_num_soft_tokens counts"):
        model(**batch)


def test_every_parameter_of_the_adapter_and_the_encoder_gets_a_gradient_from_mixed_rates():
    model, processor = pooling_model(), tiny_processor()
    model.chunk_encoder.requires_grad_(True)
    chunks = [chunk.text for chunk in processor.split(TEXT)]
    sample = processor.lay_out(
        chunks, "Where?", "There.", rate=[2, 4] * (len(chunks) // 2) + [8] * (len(chunks) % 2)
    )
    model(**processor.collate([sample], with_labels=True)).loss.backward()
    for part in (model.adapter, model.chunk_encoder):
        assert [name for name, item in part.named_parameters() if item.grad is None] == []


@pytest.mark.parametrize("layers", [[3], [-1], [], [1, 1], ["last"]])
def test_layers_that_do_not_exist_are_refused(layers):
    with pytest.raises(E2LLMError, match=r"encoder_layers must name different layers from 0 .* to 2"):
        tiny_model(adapter="pooling", encoder_layers=layers)


@pytest.mark.parametrize("kind", ["attention", "mlp"])
@torch.no_grad()
def test_released_checkpoints_answer_as_they_did(kind, request):
    folder = request.path.parent / "released" / kind
    model = E2LLMForConditionalGeneration.from_pretrained(folder)
    processor = E2LLMProcessor.from_pretrained(folder)
    for name, wanted in load_file(folder / "expected.st").items():
        inputs = processor(
            context=[TEXT, TEXT[:90]],
            prompt=["Where is the key?", "What went out?"],
            num_soft_tokens=int(name.removeprefix("logits_")),
        )
        torch.testing.assert_close(model(**inputs).logits[:, -3:], wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["qwen3", "mistral"])
def test_a_causal_encoder_reads_in_both_directions_where_the_model_says_so(family, tmp_path):
    """The first soft token knows of the last word only then, and a saved model does as the one before."""
    processor = tiny_processor()
    texts = ["the key is under a stone", "the key is under a chair"]
    inputs = processor.encode_chunk_texts(texts)
    first = {}
    for attention in ("as_trained", "bidirectional"):
        model = tiny_model(family, adapter="pooling", finest_rate=1, encoder_attention=attention)
        model.save_pretrained(tmp_path / attention)
        loaded = E2LLMForConditionalGeneration.from_pretrained(tmp_path / attention)
        with torch.no_grad():
            kept = model.encode_chunks(**inputs)
            torch.testing.assert_close(loaded.encode_chunks(**inputs), kept, atol=1e-5, rtol=0)
        first[attention] = kept[:, 1]
    torch.testing.assert_close(first["as_trained"][0], first["as_trained"][1], atol=1e-5, rtol=0)
    assert (first["bidirectional"][0] - first["bidirectional"][1]).abs().max() > 1e-3
