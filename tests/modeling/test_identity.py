"""What a fingerprint depends on, and what not."""

import pytest
import torch

from e2llm.modeling import lora
from e2llm.modeling.identity import model_fingerprint, reading_fingerprint, weight_versions
from tiny_models import TEXT, tiny_encoder, tiny_model, tiny_pooling_model


def test_how_a_tokenizer_was_last_used_does_not_count(model, processor):
    for tokenizer in (processor.encoder_tokenizer, processor.tokenizer):
        tokenizer.backend_tokenizer.enable_padding(length=16)
        tokenizer.backend_tokenizer.enable_truncation(128)
    before = reading_fingerprint(model, processor), model_fingerprint(model, processor)
    processor.encode_chunk_ids([TEXT[:40]])
    processor.encode(TEXT)
    assert processor.encoder_tokenizer.backend_tokenizer.padding is None
    assert (reading_fingerprint(model, processor), model_fingerprint(model, processor)) == before


def test_weights_of_what_reads_count_and_those_of_the_decoder_only_for_answers(model, processor):
    reading, answering = reading_fingerprint(model, processor), model_fingerprint(model, processor)
    with torch.no_grad():
        next(model.language_model.parameters()).add_(1)
    assert reading_fingerprint(model, processor) == reading
    assert model_fingerprint(model, processor) != answering
    with torch.no_grad():
        next(model.adapter.parameters()).add_(1)
    assert reading_fingerprint(model, processor) != reading


def test_another_way_of_tokenizing_counts(model, processor):
    before = reading_fingerprint(model, processor)
    processor.encoder_tokenizer.backend_tokenizer.normalizer = None
    assert reading_fingerprint(model, processor) != before


@pytest.mark.parametrize(
    "change",
    [
        lambda config: setattr(config.encoder_config, "hidden_act", "relu"),
        lambda config: setattr(config, "adapter_num_heads", 2),
        lambda config: setattr(config, "encoder_layers", [2]),
        lambda config: setattr(config, "encoder_attention", "bidirectional"),
    ],
)
def test_equal_weights_under_another_configuration_are_another_reader(processor, change):
    model = tiny_model()
    before = reading_fingerprint(model, processor)
    change(model.config)
    assert reading_fingerprint(model, processor) != before


def test_where_a_configuration_came_from_does_not_count(processor):
    model = tiny_model()
    before = reading_fingerprint(model, processor)
    model.config.encoder_config._name_or_path = "elsewhere"
    model.config.encoder_config.dtype = "float32"
    assert reading_fingerprint(model, processor) == before
    assert reading_fingerprint(tiny_model(tiny_encoder()), processor) == before


def test_of_the_pooling_adapter_only_the_projection_and_the_finest_rate_count(processor):
    model = tiny_pooling_model()
    reading, answering = reading_fingerprint(model, processor), model_fingerprint(model, processor)
    with torch.no_grad():
        model.adapter.head.down.weight.add_(1)
    assert reading_fingerprint(model, processor) == reading
    assert model_fingerprint(model, processor) != answering
    model.set_finest_rate(4)
    assert reading_fingerprint(model, processor) != reading
    model.set_finest_rate(2)
    assert reading_fingerprint(model, processor) == reading
    with torch.no_grad():
        model.adapter.projection.bias.add_(1)
    assert reading_fingerprint(model, processor) != reading


def test_lora_deltas_that_are_switched_off_count(processor):
    model = tiny_model()
    lora.set_modes(model, encoder="lora", decoder="frozen")
    before, marks = reading_fingerprint(model, processor), weight_versions(model)
    for module in model.chunk_encoder.modules():
        if getattr(module, "lora_A", None) is not None:
            module.enable_adapters(False)
    assert reading_fingerprint(model, processor) != before
    assert weight_versions(model) != marks
