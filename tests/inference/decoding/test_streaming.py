import threading

import pytest
import torch

from e2llm.errors import ContextOverflowError
from e2llm.inference.decoding.streaming import PieceStreamer

QUESTION = "Where is the key?"


@pytest.mark.parametrize("num_new", [1, 7, 40])
def test_the_pieces_joined_are_the_answer(engine, context, num_new):
    pieces = list(engine.stream(context, QUESTION, soft_tokens=2, max_new_tokens=num_new))
    assert "".join(pieces) == engine.ask(context, QUESTION, soft_tokens=2, max_new_tokens=num_new).text
    assert num_new < 40 or len(pieces) > 1


def test_ask_hands_out_the_same_pieces(engine, context):
    pieces = []
    answer = engine.ask(context, QUESTION, max_new_tokens=30, on_piece=pieces.append)
    assert "".join(pieces) == answer.text
    assert pieces == list(engine.stream(context, QUESTION, max_new_tokens=30))


def pieces_of(tokens):
    """What comes out as each of these byte strings comes in."""
    pieces, ids = [], dict(enumerate(tokens))
    text = lambda seen: b"".join(ids[i] for i in seen).decode(errors="replace").strip()  # noqa: E731
    streamer = PieceStreamer(text, pieces.append)
    streamer.put(torch.tensor([[99, 98]]))
    for index in range(len(tokens)):
        streamer.put(torch.tensor([index]))
    streamer.end()
    return pieces


def test_white_space_is_held_back_until_a_word_follows():
    assert pieces_of([b" ", b"\n One", b" ", b"two\n", b"\nthree", b" \n"]) == ["One", " two", "\n\nthree"]


def test_a_character_of_several_tokens_comes_whole():
    assert pieces_of([b"a\xe2", b"\x82", b"\xac", b"b"]) == ["a", "\u20ac", "b"]


def test_bytes_that_never_become_a_character_come_at_the_end():
    assert pieces_of([b"a\xe2", b"\x82"]) == ["a", "\ufffd"]


def test_an_answer_without_text_has_no_pieces():
    assert pieces_of([b" ", b"\n"]) == []


def test_errors_of_layout_come_at_the_call(engine, context):
    with pytest.raises(ContextOverflowError):
        engine.stream(context, QUESTION, max_new_tokens=10_000)


def test_errors_of_generation_reach_the_caller_after_the_pieces(engine, context, monkeypatch):
    generate = engine.model.generate

    def fail_late(**kwargs):
        generate(**kwargs)
        raise RuntimeError("out of memory")

    expected, pieces = engine.ask(context, QUESTION, max_new_tokens=8).text, []
    monkeypatch.setattr(engine.model, "generate", fail_late)
    with pytest.raises(RuntimeError, match="out of memory"):
        pieces.extend(engine.stream(context, QUESTION, max_new_tokens=8))
    assert "".join(pieces) == expected


def test_errors_before_the_first_piece_reach_the_caller(engine, context):
    with pytest.raises(ValueError, match="no_such_option"):
        list(engine.stream(context, QUESTION, no_such_option=3))


def test_closing_the_stream_stops_the_work(engine, context, monkeypatch):
    steps, forward = [], engine.model.language_model.forward

    def count(*args, **kwargs):
        steps.append(1)
        return forward(*args, **kwargs)

    monkeypatch.setattr(engine.model.language_model, "forward", count)
    threads = threading.active_count()
    stream = engine.stream(context, QUESTION, soft_tokens=1, max_new_tokens=400, min_new_tokens=400)
    next(stream)
    stream.close()
    assert 0 < len(steps) < 400
    assert threading.active_count() == threads


def test_a_stream_that_nobody_reads_does_no_work(engine, context, seen):
    engine.stream(context, QUESTION)
    assert seen.inputs == {}


def test_own_stopping_criteria_still_count(engine, context):
    stop = lambda ids, scores, **_: torch.ones(len(ids), dtype=torch.bool)  # noqa: E731
    pieces = list(engine.stream(context, QUESTION, max_new_tokens=40, stopping_criteria=[stop]))
    assert "".join(pieces) == engine.ask(context, QUESTION, max_new_tokens=1).text
