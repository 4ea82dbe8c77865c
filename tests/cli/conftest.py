"""A tiny model in a folder, and a way to run the command line in process."""

from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Run:
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(capsys):
    """Run `e2llm` with arguments in this process."""
    from e2llm.cli.main import entry_point

    def run(*arguments: object) -> Run:
        capsys.readouterr()
        code = entry_point([str(item) for item in arguments])
        captured = capsys.readouterr()
        return Run(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def bases(tmp_path_factory):
    """Folders of a tiny encoder and a tiny decoder, as a hub would have them."""
    from tiny_models import tiny_decoder, tiny_decoder_tokenizer, tiny_encoder, tiny_encoder_tokenizer

    root = tmp_path_factory.mktemp("bases")
    tiny_encoder().save_pretrained(root / "encoder")
    tiny_encoder_tokenizer().save_pretrained(root / "encoder")
    tiny_decoder().save_pretrained(root / "decoder")
    tiny_decoder_tokenizer().save_pretrained(root / "decoder")
    return root


@pytest.fixture(scope="session")
def make_model(bases):
    """Save a tiny model that refers to its bases and has LoRA on both parts."""

    def make(folder, bases=bases):
        import torch

        from e2llm import E2LLMForConditionalGeneration, E2LLMProcessor
        from e2llm.modeling.lora import LoraSettings, add_lora

        torch.manual_seed(3)
        encoder, decoder = str(bases / "encoder"), str(bases / "decoder")
        model = E2LLMForConditionalGeneration.from_parts(
            encoder, decoder, adapter="attention", max_soft_tokens=4
        )
        for part in (model.chunk_encoder, model.language_model):
            add_lora(part, LoraSettings(rank=2))
            for name, parameter in part.named_parameters():
                if "lora_" in name:
                    torch.nn.init.normal_(parameter, std=0.3)
        model.save_pretrained(folder)
        E2LLMProcessor.from_parts(encoder, decoder, chunk_size_chars=48).save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def model(make_model, tmp_path_factory):
    """A model folder that tests only read."""
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def text_file(tmp_path):
    from tiny_models import TEXT

    file = tmp_path / "harbour.txt"
    file.write_text(TEXT)
    return file
