import pytest

from e2llm import ChatSession
from e2llm.documents import Document
from e2llm.errors import ContextOverflowError, E2LLMError
from tiny_models import TEXT

FACT = "The code of the safe is 4817."


@pytest.fixture
def session(engine):
    return ChatSession(engine, max_history_tokens=60, max_new_tokens=4)


def talk(session, count):
    for number in range(count):
        session.ask(f"Number {number}?")


def test_recent_turns_stand_in_the_window_as_text(session, seen, engine):
    first = session.ask("Who is Mira?").text
    session.ask("And who is Tom?")
    decoded = engine.processor.tokenizer.decode(seen.ids)
    assert "Who is Mira?" in decoded
    assert decoded.index("Who is Mira?") < decoded.index("And who is Tom?")
    assert session.history[0] == ("Who is Mira?", first)


def test_old_turns_become_chunks_in_their_order(session):
    talk(session, 20)
    assert 0 < session.num_compressed < 20
    assert session.context.sources[0] == "turn 1"
    names = list(dict.fromkeys(session.context.sources))
    assert names == [f"turn {number}" for number in range(1, session.num_compressed + 1)]
    assert session.context.documents[0].text.startswith("User: Number 0?\nAssistant:")
    assert [question for question, _ in session.history] == [
        f"Number {number}?" for number in range(session.num_compressed, 20)
    ]


def test_the_raw_turns_stay_within_their_budget(session):
    for number in range(30):
        session.ask(f"Number {number}?")
        raw = sum(turn.num_tokens for turn in session.turns[session.num_compressed :])
        assert raw <= 60 or len(session.history) == 1


def test_a_fact_of_60_turns_ago_is_given_as_text_by_the_hybrid(session, seen, engine):
    session.ask(FACT)
    talk(session, 60)
    plain = session.ask("What is the code of the safe?", soft_tokens=1, expand=0)
    assert FACT not in engine.processor.tokenizer.decode(seen.ids)
    assert plain.expanded_chunks == []
    hybrid = session.ask("What is the code of the safe?", soft_tokens=1, expand=1)
    assert FACT in engine.processor.tokenizer.decode(seen.ids)
    assert session.context.sources[hybrid.expanded_chunks[0]] == "turn 1"


def test_a_document_can_be_added_mid_way(session):
    talk(session, 2)
    assert session.add(Document("book", TEXT)) == 5
    assert session.ask("Where is the key?").usage.chunks == 5
    talk(session, 20)
    assert session.context.sources[:6] == ["book"] * 5 + ["turn 1"]


def test_a_stream_is_the_same_turn_as_an_answer(engine, session):
    other = ChatSession(engine, max_history_tokens=60, max_new_tokens=4)
    for number in range(8):
        question = f"Number {number}?"
        assert "".join(session.stream(question)) == other.ask(question).text
    assert session.turns == other.turns


def test_a_stream_that_is_closed_counts_as_far_as_it_came(session):
    stream = session.stream("Who?", max_new_tokens=30)
    told = next(stream)
    stream.close()
    assert session.turns[0].answer == told


@pytest.mark.parametrize("turns", [0, 1, 25])
def test_a_saved_session_goes_on(engine, session, tmp_path, turns):
    talk(session, turns)
    session.save(tmp_path / "chat.e2llm")
    again = ChatSession.load(tmp_path / "chat.e2llm", engine, max_new_tokens=4)
    assert again.turns == session.turns
    assert again.history == session.history
    assert again.ask("And now?").text == session.ask("And now?").text
    assert len(again.context) == len(session.context)


def test_a_turn_that_does_not_fit_leaves_the_session_as_it_was(session):
    talk(session, 3)
    before = list(session.turns)
    with pytest.raises(ContextOverflowError):
        session.ask("very long " * 400)
    assert session.turns == before


@pytest.mark.parametrize("chat", [{"turns": [["only a question"]]}, {"num_compressed": "x"}, 5])
def test_a_damaged_session_is_refused(engine, session, tmp_path, chat):
    session.ask("Who?")
    session.context.save(tmp_path / "chat.e2llm", extra={"chat": chat})
    with pytest.raises(E2LLMError, match="saved conversation is damaged"):
        ChatSession.load(tmp_path / "chat.e2llm", engine)


def test_a_given_budget_takes_the_place_of_the_saved_one(engine, session, tmp_path):
    session.save(tmp_path / "chat.e2llm")
    assert ChatSession.load(tmp_path / "chat.e2llm", engine, max_history_tokens=99).max_history_tokens == 99


def test_a_saved_context_holds_no_conversation(engine, session, tmp_path):
    talk(session, 3)
    session.save(tmp_path / "chat.e2llm")
    session.context.save(tmp_path / "context.e2llm")
    assert ChatSession.load(tmp_path / "context.e2llm", engine).turns == []


def test_turns_that_cannot_be_compressed_stay_raw_and_are_tried_again(session, engine, monkeypatch):
    session.add_turn("Remember 4711. " * 3, "Yes.")
    read = engine.reader.read

    def fail(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(engine.reader, "read", fail)
    with pytest.raises(KeyboardInterrupt):
        session.add_turn("And now something else entirely. " * 2, "Well.")
    assert (session.num_compressed, len(session.history)) == (0, 2)
    monkeypatch.setattr(engine.reader, "read", read)
    session.add_turn("Go on.", "Yes.")
    assert session.context.sources[0] == "turn 1"
    assert session.num_compressed >= 1


def test_a_turn_too_long_for_the_budget_becomes_chunks_at_once(session):
    session.add_turn("Tell me.", "A long story. " * 200)
    assert session.history == []
    assert session.ask("And then?", max_new_tokens=2).usage.chunks == len(session.context) > 0


def test_a_stream_that_fails_before_it_says_anything_is_no_turn(session):
    with pytest.raises(ValueError, match="bogus"):
        list(session.stream("Who?", bogus_option=1))
    assert session.turns == []


@pytest.mark.parametrize("budget", [0, -3, 2.5])
def test_a_budget_below_one_is_refused(engine, budget):
    with pytest.raises(E2LLMError, match="max_history_tokens must be 1 or more"):
        ChatSession(engine, max_history_tokens=budget)


def test_a_budget_of_the_whole_window_is_refused(engine):
    with pytest.raises(E2LLMError, match="the decoder's window has 512; use less"):
        ChatSession(engine, max_history_tokens=512)
