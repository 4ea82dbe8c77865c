"""What of a conversation stays text and what is compressed."""

import pytest

from e2llm.serving.conversation import Conversation, compress, take_turns
from e2llm.serving.http.api_error import ApiError
from e2llm.serving.schemas import MessageIn


def count(text):
    return len(text.split())


def fit(conversation, room, **options):
    return compress(conversation, room, count, **options)


def messages(*pairs):
    return [MessageIn(role=role, content=text) for role, text in pairs]


def test_messages_become_a_question_and_its_history():
    talk = take_turns(
        messages(
            ("system", "Be kind."),
            ("user", "one"),
            ("user", "and two"),
            ("assistant", "three"),
            ("developer", "And brief."),
            ("user", "four"),
        )
    )
    assert talk == Conversation("four", (("Be kind.\n\nAnd brief.\n\none\n\nand two", "three"),))


def test_what_the_assistant_says_first_has_no_question():
    talk = take_turns(messages(("assistant", "Welcome."), ("user", "Thanks.")))
    assert talk == Conversation("Thanks.", (("", "Welcome."),))


@pytest.mark.parametrize("pairs", [[("system", "x")], [("user", "x"), ("assistant", "y")], [("user", "  ")]])
def test_without_a_last_question_there_is_nothing_to_answer(pairs):
    with pytest.raises(ApiError, match="last message"):
        take_turns(messages(*pairs))


def test_what_fits_stays_as_it_is():
    talk = Conversation("a b", (("c d", "e f"),))
    assert fit(talk, 6) == talk


def test_the_oldest_turns_are_compressed_first_and_room_is_left_for_more():
    talk = Conversation("q q", (("a a", "a a"), ("b b", "b b"), ("c c", "c c")))
    fitted = fit(talk, 13)
    assert fitted.history == (("c c", "c c"),)
    assert [item.text for item in fitted.compressed] == [
        "User: a a\nAssistant: a a\n",
        "User: b b\nAssistant: b b\n",
    ]
    assert fitted.num_compressed == 4


def test_a_template_for_one_turn_has_its_whole_history_compressed():
    fitted = fit(Conversation("q", (("a", "b"),)), 100, takes_history=False)
    assert (fitted.history, fitted.num_compressed) == ((), 2)


def test_of_a_long_message_the_first_and_last_paragraphs_stay_text():
    middle = " ".join(["word"] * 300)
    fitted = fit(Conversation(f"Summarize this:\n\n{middle}\n\nIn one line, please."), 80)
    assert fitted.question == "Summarize this:\n\nIn one line, please."
    assert fitted.compressed[0].text.strip() == middle
    assert fitted.num_compressed == 1


@pytest.mark.parametrize("text", ["word " * 400, "word\n" * 400, "x" * 4000, "a\n\n" + "b " * 999])
def test_nothing_of_a_long_message_is_lost(text):
    def letters(text):
        return len(text)

    fitted = compress(Conversation(text), 100, letters)
    assert letters(fitted.question) <= 100
    kept = fitted.question.replace("\n\n", "") + "".join(item.text for item in fitted.compressed)
    assert sorted(kept.replace(" ", "").replace("\n", "")) == sorted(text.replace(" ", "").replace("\n", ""))
