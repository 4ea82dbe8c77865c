"""What a fingerprint depends on, and what not."""

import torch

from e2llm.modeling.identity import model_fingerprint, reading_fingerprint
from tiny_models import TEXT


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
