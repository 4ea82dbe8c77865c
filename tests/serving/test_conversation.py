"""What of a conversation stays text and what is compressed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from e2llm.modeling.bm25 import Bm25Index
from e2llm.serving.conversation import Conversation, Message, compress, take_messages
from e2llm.serving.http.api_error import ApiError
from e2llm.serving.requests import MessageIn

BOOK = "\n\n".join(f"Chapter {number}. " + "She walked to the harbour and back. " * 9 for number in range(40))


def count(text):
    return len(text.split())


def take(*pairs):
    return take_messages([MessageIn(role=role, content=text) for role, text in pairs])


def fit(talk, room, **options):
    return compress(talk, room, count, **options)


def test_messages_become_a_question_and_its_history():
    talk = take(
        ("system", "Be kind."),
        ("user", "one"),
        ("user", "and two"),
        ("assistant", "three"),
        ("developer", "And brief."),
        ("user", "four"),
    )
    assert talk.turns == [("Be kind.\n\nAnd brief.\n\none\n\nand two", "three"), ("four", "")]
    assert talk.asked == "four"


def test_what_the_assistant_says_first_has_no_question():
    talk = take(("assistant", "Welcome."), ("user", "Thanks."))
    assert talk.turns == [("", "Welcome."), ("Thanks.", "")]


@pytest.mark.parametrize("pairs", [[("system", "x")], [("user", "x"), ("assistant", "y")], [("user", "  ")]])
def test_without_a_last_question_there_is_nothing_to_answer(pairs):
    with pytest.raises(ApiError, match="last message"):
        take(*pairs)


def test_calls_of_tools_and_their_results_are_text():
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"in": "Kiel"}'}}
    talk = take_messages(
        [
            MessageIn(role="user", content="Is it warm in Kiel?"),
            MessageIn(role="assistant", content=None, tool_calls=[call]),
            MessageIn(role="tool", tool_call_id="c1", content="18 degrees"),
        ]
    )
    assert talk.turns == [
        ("Is it warm in Kiel?", '[call of weather: {"in": "Kiel"}]'),
        ("[result of weather]\n18 degrees", ""),
    ]
    assert talk.asked == "Is it warm in Kiel?"
    one_turn = fit(talk, 40, takes_history=False)
    assert [question for question, _ in one_turn.turns] == ["\n\n".join(item.text for item in talk.messages)]
    assert not one_turn.compressed


def test_what_fits_stays_as_it_is():
    talk = take(("user", "c d"), ("assistant", "e f"), ("user", "a b"))
    assert fit(talk, 6) == talk


def test_the_oldest_turns_are_compressed_first_and_room_is_left_for_more():
    history = [(role, f"{letter} {letter}") for letter in "abc" for role in ("user", "assistant")]
    fitted = fit(take(*history, ("user", "q q")), 13)
    assert fitted.turns == [("c c", "c c"), ("q q", "")]
    assert [item.text for item in fitted.compressed] == [
        "User: a a\nAssistant: a a\n",
        "User: b b\nAssistant: b b\n",
    ]
    assert fitted.num_compressed == 4


def test_a_template_for_one_turn_has_its_whole_history_compressed():
    fitted = fit(take(("user", "a"), ("assistant", "b"), ("user", "q")), 100, takes_history=False)
    assert (fitted.turns, fitted.num_compressed) == ([("q", "")], 2)


def test_instructions_stay_text_when_old_turns_are_compressed():
    talk = take(
        ("system", "You are a pirate. Always answer in German."),
        ("user", "hello " * 300),
        ("assistant", "x " * 200),
        ("user", "Where is the key?"),
    )
    fitted = fit(talk, 60)
    assert fitted.turns[0][0].startswith("You are a pirate. Always answer in German.\n\n")
    assert fitted.turns[-1][0].endswith("Where is the key?")
    assert fitted.asked == "Where is the key?"


def test_the_question_stays_text_behind_instructions_and_before_a_book():
    question = "What is the code? It stands below."
    fitted = fit(take(("system", "Be helpful."), ("user", f"{question}\n\n{BOOK}")), 400)
    assert fitted.turns[0][0].startswith(f"Be helpful.\n\n{question}\n\n")
    assert fitted.asked.startswith(question)


def test_the_words_of_the_question_choose_the_chunk_and_not_those_of_a_book():
    pages = [f"The boat {number} passed island {number} with cargo {number}." * 3 for number in range(60)]
    pages.insert(30, "The code of the safe is 4817. " + "Boats pass and islands stay. " * 6)
    talk = take(("system", "Be helpful."), ("user", "\n\n".join(["What is the code of the safe?", *pages])))
    fitted = fit(talk, 400)
    chunks = fitted.compressed[0].text.split("\n\n")
    scores = Bm25Index(chunks).scores(fitted.asked)
    assert "4817" in chunks[scores.index(max(scores))]


def test_a_question_after_a_greeting_is_no_part_of_the_book():
    fitted = fit(take(("user", f"Hi!\n\nWhere does she walk to?\n\n{BOOK}\n\nThanks!")), 400)
    assert fitted.asked.startswith("Hi!\n\nWhere does she walk to?")
    assert fitted.asked.endswith("Thanks!")


def test_instructions_between_two_long_texts_stay_text():
    one, two = "alpha " * 500, "beta " * 500
    fitted = fit(take(("user", f"Compare this:\n\n{one}\n\nwith this:\n\n{two}\n\nin a table.")), 200)
    assert fitted.asked == "Compare this:\n\nwith this:\n\nin a table."


def test_line_ends_after_a_message_do_not_hide_its_end():
    fitted = fit(take(("user", f"{BOOK}\n\nWho walks, and {'really ' * 30}why?\n\n\n")), 400)
    assert fitted.asked.endswith("why?")


def test_a_book_in_an_old_message_is_cut_and_the_talk_about_it_stays():
    talk = take(("user", f"Read this.\n\n{BOOK}"), ("assistant", "I have."), ("user", "Who walks?"))
    fitted = fit(talk, 400)
    assert fitted.turns[0][0].startswith("Read this.\n\n")
    assert (fitted.turns[0][1], fitted.turns[1][0]) == ("I have.", "Who walks?")
    assert [item.name for item in fitted.compressed] == ["message 1"]


def test_a_book_in_the_last_message_does_not_cost_the_short_talk_before_it():
    talk = take(("user", "I am Ann."), ("assistant", "Hello Ann."), ("user", f"Who am I?\n\n{BOOK}"))
    fitted = fit(talk, 400)
    assert fitted.turns[0] == ("I am Ann.", "Hello Ann.")
    assert fitted.asked.startswith("Who am I?")


def test_the_end_of_a_text_to_continue_stays_as_it_is():
    fitted = fit(Conversation.of_prompt(f"{BOOK}\n\nAnd then she saw the "), 100)
    assert fitted.asked.endswith("\n\nAnd then she saw the ")
    assert 15 < count(fitted.asked) <= 25


@pytest.mark.parametrize("room", [0, 1, 4])
def test_a_question_without_room_stays_whole(room):
    assert fit(take(("user", "Where is the key?")), room).asked == "Where is the key?"


WORDS = st.integers(1, 400).map(lambda number: "word " * number)
TEXTS = st.lists(WORDS, min_size=1, max_size=4).map("\n\n".join)
ROOM = 200


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    history=st.lists(st.tuples(st.sampled_from(["user", "assistant", "tool"]), TEXTS), max_size=8),
    rules=st.lists(st.integers(0, 8), max_size=2),
    document=st.one_of(st.just(""), TEXTS),
    before=st.booleans(),
    takes_history=st.booleans(),
)
def test_the_last_question_and_the_instructions_are_always_text(
    history, rules, document, before, takes_history
):
    pairs = [*history, ("user", f"Which key?\n\n{document}" if before else f"{document}\n\nWhich key?")]
    for place in rules:
        pairs.insert(min(place, len(pairs) - 1), ("system", "Answer in German."))
    talk = take(*pairs)
    fitted = fit(talk, ROOM, takes_history=takes_history)
    given_text = "\n\n".join(text for turn in fitted.turns for text in turn)
    assert "Which key?" in fitted.asked
    assert fitted.asked in fitted.turns[-1][0]
    assert given_text.count("Answer in German.") == len(rules)
    assert count(given_text) <= ROOM
    words = count(given_text) + sum(count(item.text) for item in fitted.compressed)
    marks = sum(item.text.count("User:") + item.text.count("Assistant:") for item in fitted.compressed)
    assert words - marks == sum(count(item.text) for item in talk.messages)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    role=st.sampled_from(["user", "tool"]),
    texts=st.lists(TEXTS, min_size=1, max_size=6),
    room=st.integers(8, 99),
)
def test_many_messages_before_one_answer_fit_too(role, texts, room):
    fitted = fit(take(*[(role, text) for text in texts], ("user", "Why?")), room)
    assert fitted.asked == "Why?"
    assert count(fitted.turns[-1][0]) <= room


@pytest.mark.parametrize("text", ["word " * 400, "word\n" * 400, "x" * 4000, "a\n\n" + "b " * 999])
def test_nothing_of_a_long_message_is_lost(text):
    def letters(text):
        return len(text)

    fitted = compress(Conversation((Message("user", text, stays=True),)), 100, letters)
    assert letters(fitted.asked) <= 100
    kept = fitted.asked.replace("\n\n", "") + "".join(item.text for item in fitted.compressed)
    assert sorted(kept.replace(" ", "").replace("\n", "")) == sorted(text.replace(" ", "").replace("\n", ""))


def test_a_message_without_end_is_not_counted_whole():
    counted = []

    def counting(text):
        counted.append(len(text))
        return count(text)

    compress(take(("user", "Where is it? " + "harbour " * 400_000)), 300, counting)
    assert sum(counted) < 100_000


LETTER = "The boats lay in the harbour and the wind came from the north. " * 400
LINES = "\n\n".join(f"It rained on day {number}." for number in range(20))
ASKED = "Which key opens the door of the tower?"


@pytest.mark.parametrize("room", [20, 60, 400, 4000])
@pytest.mark.parametrize(
    "parts",
    [
        (LETTER, "\r\n\r\n", ASKED, "\r\n\r\n", LETTER),
        (LETTER, "\n", ASKED, "\n", LETTER),
        (LETTER, "\n", ASKED[:-1], "\n", LETTER),
        (LETTER, "\n \n", ASKED, "\n\n\n", LETTER),
        (LINES, "\n\n", LETTER, "\n\n", ASKED, "\n\n", LETTER, "\n\n", LINES),
        (LINES, "\n\n", LETTER, "\n\n", ASKED[:-1], "\n\n", LETTER, "\n\n", LINES),
        ("Hello!\n\n", LETTER, "\n\n", LETTER, "\n\n", ASKED),
    ],
)
def test_the_question_stays_wherever_it_stands_in_a_message(parts, room):
    fitted = fit(take(("user", "".join(parts))), room)
    assert ASKED[:-1] in fitted.asked
    assert count(fitted.asked) <= room - room // 8


def test_short_paragraphs_have_a_share_of_the_room():
    fitted = fit(take(("user", f"{LINES}\n\n{LETTER}\n\n{LINES}")), 4000)
    assert fitted.asked == f"{LINES}\n\n{LINES}"
