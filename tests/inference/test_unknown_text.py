"""Text that the encoder's vocabulary lacks: the tiny encoder knows ASCII only."""

import warnings

import pytest

from e2llm import Context, Engine
from e2llm.errors import E2LLMWarning
from tiny_models import TEXT, tiny_pooling_model, tiny_processor

THAI = "รหัสของตู้เซฟคือสี่แปดหนึ่งเจ็ด"


@pytest.fixture(scope="module")
def pooling():
    return Engine(tiny_pooling_model(), tiny_processor())


@pytest.fixture
def thai(pooling):
    with pytest.warns(E2LLMWarning, match=r"does not know 100% of the characters of 1 of 6 chunks read"):
        return pooling.read([TEXT, THAI], progress=False)


def test_the_share_of_unknown_characters_is_known_after_reading(thai):
    assert thai.content.unknown_fractions == [0, 0, 0, 0, 0, 1]
    assert thai.content.unreadable == {5}
    assert thai.content.unknown_fraction == round(len(THAI) / (len(TEXT) + len(THAI)), 4)


def test_known_text_is_read_without_a_warning(pooling):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        context = pooling.read(TEXT + "One é in a known text.", progress=False)
    assert 0 < max(context.content.unknown_fractions) < 1 / 3
    assert not context.content.unreadable


def test_a_saved_context_keeps_the_shares(pooling, thai, tmp_path):
    thai.save(tmp_path / "c.e2llm")
    assert Context.load(tmp_path / "c.e2llm", pooling).content.unknown_fractions == [0, 0, 0, 0, 0, 1]


def test_an_edit_warns_of_new_chunks_only(pooling, thai):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        thai.append("One more boat.")
    assert thai.content.unreadable == {5}


@pytest.mark.parametrize("question", ["What is the code?", "Which boats did Mira count?", THAI])
def test_unknown_chunks_are_given_as_text(pooling, thai, question):
    answer = pooling.ask(thai, question, budget=230, max_new_tokens=1)
    assert 5 in answer.expanded_chunks or "Mira" in question
    assert answer.usage.note is None
    assert answer.usage.unknown_fraction == thai.content.unknown_fraction


def test_an_answer_from_soft_tokens_of_unknown_text_says_so(pooling, thai):
    answer = pooling.ask(thai, "What is the code?", rate=2, max_new_tokens=1)
    assert answer.usage.note == "the encoder knows little of 1 of the chunks given as soft tokens"
