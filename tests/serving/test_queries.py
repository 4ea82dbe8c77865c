"""Unknown query parameters are refused in the API's own way, after the key was checked."""

import pytest

from served import MODEL, serving

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Where?"}], "max_tokens": 2}


@pytest.mark.parametrize(
    ("method", "path", "takes"),
    [
        ("POST", "/v1/chat/completions", "takes no parameters"),
        ("POST", "/v1/completions", "takes no parameters"),
        ("GET", "/v1/models", "takes no parameters"),
        ("GET", f"/v1/models/{MODEL}", "takes no parameters"),
        ("GET", "/v1/contexts", "takes limit, after"),
        ("POST", "/v1/contexts", "takes no parameters"),
        ("GET", "/v1/contexts/ctx_{:024x}/chunks", "takes start, count"),
        ("GET", "/v1/contexts/ctx_{:024x}/fidelity", "takes start, count, soft_tokens, rate"),
        ("DELETE", "/v1/contexts/ctx_{:024x}", "takes no parameters"),
    ],
)
def test_an_unknown_parameter_is_named_with_those_that_there_are(client, method, path, takes):
    response = client.request(method, path.format(7), params={"api-version": "1"})
    error = response.json()["error"]
    assert response.status_code == 400
    assert (error["type"], error["param"]) == ("invalid_request_error", "api-version")
    assert "'api-version', which is unknown" in error["message"]
    assert takes in error["message"]


def test_one_that_is_given_twice_is_refused(client):
    response = client.get("/v1/contexts?limit=1&limit=2")
    assert response.status_code == 400
    assert "'limit' 2 times; give it once" in response.json()["error"]["message"]


def test_a_name_without_end_is_not_sent_back_whole(client):
    error = client.get("/v1/models", params={"x" * 3000: "1"}).json()["error"]
    assert len(error["message"]) < 300
    assert error["param"].startswith("xxx")


def test_nothing_is_read_for_a_request_that_is_refused(client):
    response = client.post("/v1/contexts", params={"name": "a"}, json={"text": "Boats.", "name": "unheard"})
    assert response.status_code == 400
    assert "unheard" not in [item["name"] for item in client.get("/v1/contexts").json()["data"]]


def test_pages_and_probes_may_have_anything_there(client):
    for path in ("/", "/health", "/static/page/app.js"):
        assert client.get(path, params={"t": "1"}).status_code == 200


def test_without_a_key_only_the_key_is_told_of():
    from e2llm.serving.http.keys import hash_key

    with serving(api_keys=(hash_key("a-key-of-ours-0123456789"),)) as served, served.http() as http:
        assert http.get("/v1/models", params={"x": "1"}).status_code == 401


def test_openais_client_is_told_too_and_works_without(served):
    import openai

    with served.openai() as client:
        assert client.chat.completions.create(**CHAT).choices
        with pytest.raises(openai.BadRequestError, match="api-version"):
            client.chat.completions.create(**CHAT, extra_query={"api-version": "2024"})
