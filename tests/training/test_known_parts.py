import pytest
import torch
from small_parts import save_encoder
from transformers import AutoModel, AutoModelForCausalLM

from e2llm.errors import E2LLMError
from e2llm.training.known_parts import KNOWN_DECODERS, KNOWN_ENCODERS, part_config

# What the models' own pages and papers state (the weights as published: encoders with their pooler).
PUBLISHED = {
    "sentence-transformers/all-MiniLM-L6-v2": 22_713_216,
    "BAAI/bge-small-en-v1.5": 33_360_000,
    "BAAI/bge-base-en-v1.5": 109_482_240,
    "BAAI/bge-large-en-v1.5": 335_141_888,
    "thenlper/gte-small": 33_360_000,
    "thenlper/gte-base": 109_482_240,
    "thenlper/gte-large": 335_141_888,
    "meta-llama/Llama-2-7b-chat-hf": 6_738_415_616,
    "meta-llama/Llama-2-13b-chat-hf": 13_015_864_320,
    "meta-llama/Llama-3.1-8B-Instruct": 8_030_261_248,
    "HuggingFaceTB/SmolLM2-135M-Instruct": 134_515_008,
    "Qwen/Qwen2.5-0.5B-Instruct": 494_032_768,
    "Qwen/Qwen2.5-1.5B-Instruct": 1_543_714_304,
    "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-8B": 8_190_735_360,
}


@pytest.mark.parametrize("name", [*KNOWN_ENCODERS, *KNOWN_DECODERS])
def test_a_model_of_the_known_dimensions_has_the_published_number_of_parameters(name):
    part = "encoder" if name in KNOWN_ENCODERS else "decoder"
    loader = AutoModel if part == "encoder" else AutoModelForCausalLM
    with torch.device("meta"):
        model = loader.from_config(part_config(part, name))
    assert sum(parameter.numel() for parameter in model.parameters()) == PUBLISHED[name]


def test_a_local_folder_comes_before_the_table(tmp_path, monkeypatch):
    monkeypatch.setattr("e2llm.training.known_parts.KNOWN_ENCODERS", {})
    assert part_config("encoder", save_encoder(tmp_path)).hidden_size == 32


@pytest.mark.parametrize("name", ["someone/unknown-7b", "./nowhere"])
def test_an_unknown_model_is_an_error_that_asks_for_a_folder(name):
    with pytest.raises(E2LLMError, match=r"--set decoder\.source=FOLDER"):
        part_config("decoder", name)
