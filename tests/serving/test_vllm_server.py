"""Where vLLM is, and the decoder that is exported for it."""

import pytest
import torch
from starlette.testclient import TestClient

from e2llm.errors import E2LLMError
from e2llm.modeling.checkpoints.save import save_decoder
from e2llm.modeling.lora import LoraSettings, add_lora
from e2llm.serving.app import create_app
from e2llm.serving.settings import BACKEND_KEY_VARIABLE, ServerSettings
from e2llm.serving.vllm_backend import VllmBackend, VllmServer, check_url, find_server
from tiny_models import TEXT
from vllm_served import chat_body, local, make_engine, text_of
from vllm_stand_in import VllmStandIn, running

# --- where vLLM is ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("ftp://127.0.0.1", "like http://127.0.0.1:8001"),
        ("127.0.0.1:8001", "like http://127.0.0.1:8001"),
        ("http://", "like http://127.0.0.1:8001"),
        ("http://host:99999", "is invalid"),
        ("http://host/?a=b", "like http://127.0.0.1:8001"),
        ("http://host/#a", "like http://127.0.0.1:8001"),
        ("http://host\n", "is invalid"),
        ("http://user:word@host", "contains a user name or a password"),
    ],
)
def test_an_address_that_is_none_is_refused_and_a_password_is_not_repeated(url, part):
    with pytest.raises(E2LLMError, match=part) as caught:
        check_url(url)
    assert "word@" not in str(caught.value)


def test_an_address_may_end_with_the_version_as_clients_have_it():
    plain = "http://127.0.0.1:8001"
    assert {check_url(plain + end) for end in ("", "/", "/v1", "/v1/")} == {plain}
    assert check_url("https://[::1]:8001/base/v1") == "https://[::1]:8001/base"


def test_the_model_and_its_length_are_what_vllm_tells(decoder, monkeypatch):
    upstream = VllmStandIn(decoder, 77)
    with running(upstream.app) as url:
        assert find_server(url + "/v1") == VllmServer(url, "decoder", None, 77)
        upstream.trouble = "key"
        monkeypatch.setenv(BACKEND_KEY_VARIABLE, "the-key")
        keyed = find_server(url)
        assert keyed.api_key == "the-key"
        assert "the-key" not in repr(keyed)
        monkeypatch.delenv(BACKEND_KEY_VARIABLE)
        with pytest.raises(E2LLMError, match="status 401, expected 200; give its key in"):
            find_server(url)
        upstream.trouble = "moved"
        with pytest.raises(E2LLMError, match="status 307, expected 200"):
            find_server(url)
        upstream.trouble = "no models"
        with pytest.raises(E2LLMError, match="lists no model"):
            find_server(url)


def test_a_named_model_is_taken_without_asking_and_nobody_there_is_an_error():
    assert find_server("http://127.0.0.1:9", model="mine").model == "mine"
    with pytest.raises(E2LLMError, match=r"no vLLM at http://127\.0\.0\.1:9: .*start it first"):
        find_server("http://127.0.0.1:9")


def test_the_key_goes_along_and_proxies_of_the_environment_are_not_used(serve, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    served, client = serve()
    monkeypatch.setenv(BACKEND_KEY_VARIABLE, "the-key")
    served.backend.server = find_server(served.url)
    assert served.chat(client).status_code == 200
    assert served.upstream.headers["authorization"] == "Bearer the-key"


def test_a_key_that_no_header_holds_is_refused(monkeypatch):
    monkeypatch.setenv(BACKEND_KEY_VARIABLE, "two words")
    with pytest.raises(E2LLMError, match="printable ASCII"):
        find_server("http://127.0.0.1:9", model="m")


# --- the exported decoder ---------------------------------------------------------------------------------


def test_an_exported_decoder_with_lora_answers_as_it_does_here(tmp_path):
    def tuned():
        engine = make_engine()
        add_lora(engine.model.language_model, LoraSettings(rank=2))
        torch.manual_seed(5)
        for name, parameter in engine.model.language_model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        return engine

    exported = tuned()
    save_decoder(exported.model, exported.processor.tokenizer, tmp_path)
    upstream = VllmStandIn(tmp_path)
    body = chat_body(documents=[TEXT])
    with TestClient(create_app(tuned(), ServerSettings())) as client:
        expected = client.post("/v1/chat/completions", json=body).json()
    with running(upstream.app) as url:
        engine = tuned()
        app = create_app(engine, ServerSettings(), VllmBackend(engine, find_server(url)))
        with TestClient(app) as client:
            answer = client.post("/v1/chat/completions", json=body).json()
    assert text_of(answer) == text_of(expected)
    assert text_of(answer) != text_of(local("/v1/chat/completions", body))
