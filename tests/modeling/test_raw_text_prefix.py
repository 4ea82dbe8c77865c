import pytest

from e2llm.modeling.raw_text import longest_prefix


@pytest.mark.parametrize(
    ("text", "limit", "expected"),
    [
        ("one two three", 2, "one two "),
        ("one two three", 3, "one two three"),
        ("one two three", 99, "one two three"),
        ("one two three", None, "one two three"),
        ("one two three", 0, ""),
        ("a " * 5000, 4000, "a " * 4000),
    ],
)
def test_the_longest_start_of_a_text_is_found(text, limit, expected):
    prefix = longest_prefix(text, limit, lambda part: len(part.split()))
    assert prefix == expected
