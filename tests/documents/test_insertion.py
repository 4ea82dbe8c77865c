import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2llm.documents import Document, insert_sentence
from e2llm.errors import E2LLMError

TEXT = 'One came. "Two went!" he said. Three stayed.'


@pytest.mark.parametrize(
    ("depth", "expected"),
    [
        (0.0, "X. " + TEXT),
        (0.2, 'One came. X. "Two went!" he said. Three stayed.'),
        (0.45, 'One came. "Two went!" X. he said. Three stayed.'),
        (0.7, 'One came. "Two went!" he said. X. Three stayed.'),
        (1.0, TEXT + " X."),
    ],
)
def test_a_sentence_goes_between_two_sentences_near_its_depth(depth, expected):
    insertion = insert_sentence([Document("a", TEXT)], "X.", depth)
    assert insertion.documents == [Document("a", expected)]
    assert expected[insertion.start :].startswith("X.")


def test_the_depth_counts_over_all_documents():
    documents = [Document("a", TEXT), Document("b", ""), Document("c", TEXT, heading="c\n")]
    insertion = insert_sentence(documents, "X.", 0.6)
    assert insertion.name == "c"
    assert insertion.documents[:2] == documents[:2]
    assert insertion.documents[2].heading == "c\n"
    assert insertion.documents[2].text.startswith("One came. X.")


@given(st.text(st.sampled_from('ab. !\n"'), min_size=1), st.floats(0, 1), st.text("xyz", min_size=1))
def test_all_of_the_text_and_the_sentence_are_there(text, depth, sentence):
    insertion = insert_sentence([Document("a", text)], sentence, depth)
    new = insertion.documents[0].text
    end = insertion.start + len(sentence)
    assert new[insertion.start : end] == sentence
    rest = new[: insertion.start].removesuffix(" ") + new[end:].removeprefix(" ")
    assert rest.replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize(("text", "sentence"), [(TEXT, " "), ("", "X.")])
def test_without_a_sentence_or_a_text_it_is_an_error(text, sentence):
    with pytest.raises(
        E2LLMError, match="the sentence to insert is empty, or there is no text to insert it into"
    ):
        insert_sentence([Document("a", text)], sentence)
