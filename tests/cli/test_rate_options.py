"""`--rate` and `--finest-rate` on the command line, and what commands say of an untrained adapter."""

import json

import pytest

from e2llm import Context, Engine
from tiny_models import TEXT, tiny_pooling_model, tiny_processor

QUESTION = "Where is the key?"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A trained and an untrained model, and a text."""
    root = tmp_path_factory.mktemp("pooling")
    for name, trained_on in (("trained", {"2": 5, "4": 5, "one": 5, "text": 5}), ("untrained", None)):
        tiny_pooling_model(trained_on=trained_on).save_pretrained(root / name, self_contained=True)
        tiny_processor().save_pretrained(root / name)
    (root / "notes.txt").write_text(TEXT * 3)
    return root


def told(result):
    assert result.code == 0, result.err
    return json.loads(result.out)


@pytest.mark.parametrize("rate", [2, "one"])
def test_ask_takes_a_rate_and_says_what_it_took(run, folders, rate):
    arguments = (
        "ask",
        folders / "notes.txt",
        QUESTION,
        "--model",
        folders / "trained",
        "--max-new-tokens",
        4,
    )
    answer = told(run(*arguments, "--rate", rate, "--json"))
    assert answer["usage"]["rate"] == rate
    assert answer["usage"]["note"] is None
    assert f"(rate {rate})" in run(*arguments, "--rate", rate).err


def test_a_rate_without_training_is_noted_on_one_line(run, folders):
    result = run(
        "ask", folders / "notes.txt", QUESTION, "--model", folders / "trained", "--rate", 16,
        "--max-new-tokens", 1,
    )  # fmt: skip
    assert result.code == 0
    assert result.err.count("rate 16 is used, but this model was trained at 2, 4, one") == 1
    assert "Warning" not in result.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--rate", "3"), "rate must be a power of two"),
        (("--rate", "two"), "rate must be a power of two"),
        (("--rate", "1"), "again with finest_rate=1"),
        (("--soft-tokens", "2"), "use rate, such as 2, 4, one"),
    ],
)
def test_what_cannot_be_is_refused(run, folders, options, words):
    result = run("ask", folders / "notes.txt", QUESTION, "--model", folders / "trained", *options)
    assert (result.code, words in result.err) == (1, True), result.err


def test_a_saved_context_brings_its_finest_rate_along(run, folders, tmp_path):
    file = tmp_path / "notes.e2llm"
    model = ("--model", folders / "trained")
    assert run("read", folders / "notes.txt", "-o", file, *model, "--finest-rate", 4).code == 0
    answer = told(run("ask", file, QUESTION, *model, "--rate", 4, "--max-new-tokens", 2, "--json"))
    assert answer["usage"]["rate"] == 4
    finer = run("ask", file, QUESTION, *model, "--rate", 2)
    assert "one state per 4 encoder tokens is kept; read the documents again with finest_rate=2" in finer.err
    engine = Engine.from_pretrained(folders / "trained", device="cpu", finest_rate=4)
    assert len(Context.load(file, engine)) > 5


def test_fidelity_and_restate_take_the_rate(run, folders):
    model = ("--model", folders / "trained")
    text = folders / "notes.txt"
    assert told(run("fidelity", text, *model, "--rate", 4, "--sample", 2, "--json"))["rate"] == 4
    assert "chunks at rate one" in run("fidelity", text, *model, "--rate", "one", "--sample", 2).out
    assert len(told(run("restate", text, *model, "--rate", "one", "--chunk", 1, "--json"))) == 1


def test_an_untrained_adapter_answers_from_text_and_info_says_so(run, folders):
    result = run(
        "ask",
        folders / "notes.txt",
        QUESTION,
        "--model",
        folders / "untrained",
        "--max-new-tokens",
        4,
        "--json",
    )
    answer = told(result)
    assert answer["text"]
    assert answer["usage"]["soft_tokens"] == 0
    assert answer["expanded_chunks"]
    assert "the adapter of this model is not trained yet" in answer["usage"]["note"]
    assert result.err.count("the adapter of this model is not trained yet") == 1
    assert "not trained yet" in told(run("info", folders / "untrained", "--json"))["model"]["trained_on"]
    facts = told(run("info", folders / "trained", "--json"))["model"]
    assert facts["finest_rate"] == 2
    assert facts["trained_on"] == "2 (5), 4 (5), one (5), text (5)"
