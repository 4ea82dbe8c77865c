"""`e2llm export --merged` and `e2llm serve --url`."""

import json
import shlex

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from e2llm import E2LLMForConditionalGeneration
from tiny_models import tiny_decoder_tokenizer


def test_the_merged_decoder_gives_the_logits_of_ours_with_its_lora(run, model, tmp_path):
    assert run("export", model, tmp_path / "out", "--merged").code == 0
    ours = E2LLMForConditionalGeneration.from_pretrained(model)
    alone = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    ids = torch.randint(3, 300, (2, 9), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        expected = ours.language_model(ids).logits
        torch.testing.assert_close(alone(ids).logits, expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(alone.get_input_embeddings().weight, ours.get_input_embeddings().weight)
    assert type(alone).__name__ == "LlamaForCausalLM"


def test_the_merged_decoder_is_a_plain_folder_with_tokenizer_and_ids(run, model, tmp_path):
    run("export", model, tmp_path / "out", "--merged")
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("llama", ["LlamaForCausalLM"])
    settings = json.loads((tmp_path / "out/generation_config.json").read_text())
    ids = {name: value for name, value in settings.items() if name.endswith("_token_id")}
    assert ids == {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    assert {name for name in settings if not name.startswith(("_", "transformers"))} == set(ids)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("Where?").input_ids == tiny_decoder_tokenizer()("Where?").input_ids
    assert tokenizer.convert_tokens_to_ids("<|chunk|>") == 319


def test_export_prints_how_to_start_vllm_with_the_decoder(run, model, tmp_path):
    line = run("export", model, tmp_path / "out", "--merged").out.splitlines()[1]
    out = str(tmp_path / "out")
    assert shlex.split(line) == [
        *("vllm", "serve", out, "--served-model-name", model.name, "--dtype", "float32"),
        *("--enable-prompt-embeds", "--host", "127.0.0.1", "--port", "8001"),
    ]
    told = json.loads(run("export", model, tmp_path / "two", "--merged", "--json").out)
    assert told["launch"] == line.replace(out, str(tmp_path / "two"))
    assert told["num_bytes"] > 10_000


def test_a_merged_export_that_fails_leaves_nothing_behind(run, model, tmp_path, monkeypatch):
    def full_disk(*_args, **_kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr("transformers.PreTrainedTokenizerFast.save_pretrained", full_disk)
    result = run("export", model, tmp_path / "out", "--merged")
    assert (result.code, result.err) == (1, "e2llm: error: no space left on device\n")
    assert list(tmp_path.iterdir()) == []


# --- serve ------------------------------------------------------------------------------------------------


@pytest.fixture
def started(monkeypatch):
    """What `run_server` was called with, in the place of a server."""
    calls = []

    def run_server(engine, settings, listening, **rest):
        listening.close()
        calls.append((settings, rest))

    monkeypatch.setattr("e2llm.serving.app.run_server", run_server)
    monkeypatch.delenv("E2LLM_BACKEND_API_KEY", raising=False)
    return calls


def test_serve_decodes_here_unless_told_otherwise(run, model, started):
    assert run("serve", model, "--port", 0).code == 0
    assert started[0][1]["backend"] is None


def test_serve_takes_vllm_and_its_key_from_the_environment(run, model, started, monkeypatch):
    monkeypatch.setenv("E2LLM_BACKEND_API_KEY", "the-key")
    arguments = ("--url", "http://127.0.0.1:9/v1", "--backend-model", "decoder")
    result = run("serve", model, *arguments, "--set", "timeout_seconds=30", "--port", 0)
    assert (result.code, result.err) == (0, "")
    backend = started[0][1]["backend"]
    assert (backend.server.url, backend.server.model) == ("http://127.0.0.1:9", "decoder")
    assert (backend.server.api_key, backend.server.timeout_seconds) == ("the-key", 30)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backend-model", "m"], "add --url"),
        (["--set", "max_queue=0"], "max_queue: input should be greater than or equal to 1, got '0'"),
        (["--set", "queue=9"], "there is no queue; choose from: folder, "),
        (["--set", "folder=x"], "use the separate option"),
        (["--url", "http://127.0.0.1:9"], "no vLLM at http://127.0.0.1:9"),
        (["--url", "http://me:word@h"], "contains a user name or a password"),
    ],
)
def test_serve_says_what_is_wrong_with_the_backend(run, model, started, arguments, message):
    result = run("serve", model, "--port", 0, *arguments)
    assert result.code in (1, 2)
    assert message in result.err
    assert started == []
