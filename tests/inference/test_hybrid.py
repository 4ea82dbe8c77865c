import pytest

from e2llm.documents import Document
from e2llm.errors import ContextOverflowError, E2LLMError

BOATS = "".join(f"Boat number {i} is named after harbour {i * 7}. " for i in range(40))
QUESTION = "What is boat number 23 named after?"


@pytest.fixture(scope="module")
def boats(engine):
    return engine.read(BOATS, progress=False)


def decoded(engine, seen):
    return engine.processor.tokenizer.decode(seen.ids)


def test_the_chunks_that_the_question_points_at_are_given_as_text(engine, boats, seen):
    answer = engine.ask(boats, QUESTION, expand=2, select="bm25", max_new_tokens=2)
    assert len(answer.expanded) == 2
    assert "Boat number 23 is named" in decoded(engine, seen)
    assert answer.expanded == [
        (boats.chunks[index].start, boats.chunks[index].end) for index in answer.expanded_chunks
    ]
    assert answer.expanded_chunks == sorted(answer.expanded_chunks)


def test_a_number_expands_as_the_same_list_does(engine, boats, seen):
    by_number = engine.ask(boats, QUESTION, expand=3, max_new_tokens=5)
    ids = seen.ids
    by_list = engine.ask(boats, QUESTION, expand=by_number.expanded_chunks, max_new_tokens=5)
    assert seen.ids == ids
    assert by_list.text == by_number.text


def test_the_encoder_chooses_by_similarity(engine, boats):
    chunk = boats.chunks[7]
    answer = engine.ask(boats, chunk.text, expand=1, select="encoder", max_new_tokens=1)
    assert answer.expanded_chunks == [7]  # nothing is more similar to a text than itself


def test_streaming_expands_as_asking_does(engine, boats):
    answer = engine.ask(boats, QUESTION, expand=2, max_new_tokens=8)
    assert "".join(engine.stream(boats, QUESTION, expand=2, max_new_tokens=8)) == answer.text


def test_a_context_beyond_the_window_leaves_out_what_is_least_relevant(engine, seen):
    context = engine.read(BOATS * 20, progress=False)
    answer = engine.ask(context, QUESTION, max_new_tokens=8)
    assert answer.left_out > 0
    assert answer.expanded_chunks
    assert len(seen.ids) + 8 <= engine.window
    assert answer.usage.chunks == len(context)
    with pytest.raises(ContextOverflowError, match="overflow='select'"):
        engine.ask(context, QUESTION, soft_tokens=1, max_new_tokens=8)
    answer = engine.ask(context, QUESTION, soft_tokens=1, overflow="select", max_new_tokens=8)
    assert answer.usage.soft_tokens == len(context) - answer.left_out
    assert len(seen.ids) + 8 == engine.window


def test_a_number_of_chunks_takes_what_fits_and_named_ones_must_fit(engine, boats, seen):
    answer = engine.ask(boats, QUESTION, max_new_tokens=8, expand=500)
    assert answer.expanded_chunks
    assert len(seen.ids) + 8 <= engine.window
    with pytest.raises(ContextOverflowError):
        engine.ask(boats, QUESTION, expand=range(len(boats)), max_new_tokens=8)


def test_a_budget_is_spent_where_the_question_points(engine, boats, seen):
    answer = engine.ask(boats, QUESTION, budget=200, select="bm25", max_new_tokens=2)
    assert 150 < len(seen.ids) <= 200
    scores = engine.rank(boats, QUESTION, select="bm25")
    assert scores.index(max(scores)) in answer.expanded_chunks
    assert sum(answer.usage.positions.values()) == answer.usage.soft_tokens + answer.usage.positions["text"]
    assert answer.usage.positions["text"] > 0 < answer.usage.soft_tokens


@pytest.mark.parametrize(
    ("policy", "has_text", "has_soft"),
    [("mixed", True, True), ("raw", True, False), ("soft", False, True), ("uniform", False, True)],
)
def test_a_policy_says_who_gets_what(engine, boats, seen, policy, has_text, has_soft):
    answer = engine.ask(boats, QUESTION, budget=250, policy=policy, max_new_tokens=2)
    assert (bool(answer.expanded), answer.usage.soft_tokens > 0) == (has_text, has_soft)
    assert len(seen.ids) <= 250


def test_a_short_context_is_given_whole_as_text(engine):
    context = engine.read(BOATS[:200], progress=False)
    answer = engine.ask(context, QUESTION, max_new_tokens=2)
    assert (len(answer.expanded), answer.usage.soft_tokens) == (len(context), 0)


def test_named_chunks_are_all_the_text_there_is(engine, boats):
    answer = engine.ask(boats, QUESTION, expand=[0, 5], max_new_tokens=2)
    assert answer.expanded_chunks == [0, 5]
    assert answer.left_out == 0


def test_a_budget_beyond_the_window_is_refused(engine, boats):
    with pytest.raises(E2LLMError, match=r"budget is 513 and .* has 512 positions"):
        engine.ask(boats, QUESTION, budget=513, max_new_tokens=1)


def test_sources_are_the_most_relevant_chunks_given_as_text_with_their_places(engine, boats):
    answer = engine.ask(boats, QUESTION, budget=200, select="bm25", max_new_tokens=2)
    first = answer.sources[0]
    assert "Boat number 23 is named" in first.text
    assert first.text == BOATS[first.start : first.end] == boats.chunks[first.chunk].text
    assert {item.chunk for item in answer.sources} == set(answer.expanded_chunks[:5])
    relevance = [item.relevance for item in answer.sources]
    assert relevance == sorted(relevance, reverse=True)
    assert (first.level, str(first)) == ("text", "text, line 1")


def test_without_text_the_sources_are_soft(engine, boats):
    answer = engine.ask(boats, QUESTION, soft_tokens=2, select="bm25", max_new_tokens=2)
    assert [item.level for item in answer.sources] == [2] * 5
    assert "Boat number 23 is named" in answer.sources[0].text


def test_a_source_names_the_place_of_its_document(engine):
    document = Document("report.pdf", "One boat.\n\nTwo boats.", places=((0, "page 1"), (11, "page 12")))
    answer = engine.ask(engine.read(document, progress=False), "Two?", max_new_tokens=1)
    assert {str(source) for source in answer.sources} == {"report.pdf, pages 1-12"}
    assert all(source.place == document.place_of(source.start, source.end) for source in answer.sources)


def test_a_source_of_a_text_counts_lines(engine):
    context = engine.read("One.\n\nTwo of them.\n" * 6, progress=False)
    answer = engine.ask(context, "Two?", max_new_tokens=1)
    document = context.documents[0].text
    for source in answer.sources:
        first, last = map(int, source.place.removeprefix("lines ").split("-"))
        assert "\n".join(document.splitlines()[first - 1 : last]) == source.text.strip()


def test_a_source_begins_at_its_first_visible_character(engine):
    text = "One.\n" * 9 + "\n\n" + "The key is under the blue stone. " * 3
    answer = engine.ask(engine.read(text, progress=False), "Where is the key?", budget=60, max_new_tokens=1)
    lines = text.split("\n")
    for source in answer.sources:
        number = int(str(source).rpartition(" ")[2])
        assert lines[number - 1].startswith(source.text.strip().split("\n")[0].split(" ")[0])


def test_only_a_context_can_be_asked_about(engine):
    with pytest.raises(E2LLMError, match=r"ask about a Context, which Engine\.read returns; got str"):
        engine.ask("The key is here.", QUESTION)
