import re

import pytest
from ruler_samples import HAYSTACKS, evidence_of, request

from e2llm.data.needles.hiding import hide
from e2llm.evaluation.tasks import TASKS
from e2llm.evaluation.tasks.ruler.haystacks import NOISE, essay
from e2llm.evaluation.tasks.ruler.needle_tasks import NeedleHeatMap

UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
WORDS, NUMBER = r"[a-z]+-[a-z]+", r"[1-9]\d{6}"
# name: (kind of the values, pattern of keys and of values, keys hidden, values of each, keys asked)
SHAPES = {
    "niah_single_1": ("numbers", WORDS, NUMBER, 1, 1, 1),
    "niah_single_2": ("numbers", WORDS, NUMBER, 1, 1, 1),
    "niah_single_3": ("uuids", WORDS, UUID, 1, 1, 1),
    "niah_multikey_1": ("numbers", WORDS, NUMBER, 4, 1, 1),
    "niah_multivalue": ("numbers", WORDS, NUMBER, 1, 4, 1),
    "niah_multiquery": ("numbers", WORDS, NUMBER, 4, 1, 4),
}
ESSAYS = [name for name in SHAPES if name != "niah_single_1"]


def items(name, **options):
    return list(TASKS[name]().items(request(**options)))


def needles_in(item):
    return re.findall(r"One of the special magic (\w+) for (\S+) is: (\S+)\.(?=\s|$)", item.context)


@pytest.mark.parametrize("name", SHAPES)
def test_as_many_keys_and_values_are_hidden_and_asked_as_published(name):
    kind, key_pattern, value_pattern, num_keys, num_values, num_queries = SHAPES[name]
    for item in items(name, limit=6):
        found = needles_in(item)
        assert len(found) == num_keys * num_values
        assert len({key for _, key, _ in found}) == num_keys
        assert all(
            shown == kind and re.fullmatch(key_pattern, key) and re.fullmatch(value_pattern, value)
            for shown, key, value in found
        )
        asked = [key for key in {key for _, key, _ in found} if key in item.prompt]
        assert len(asked) == num_queries
        assert set(item.references) == {value for _, key, value in found if key in asked}


@pytest.mark.parametrize("name", [*SHAPES, "niah_multikey_2", "niah_multikey_3"])
def test_the_evidence_is_the_asked_needles_and_nothing_else_holds_the_answer(name):
    for item in items(name, limit=6):
        shown = evidence_of(item)
        assert len(shown) == len(item.references)
        assert all(text.startswith("One of the special magic ") and text.endswith(".") for text in shown)
        for value in item.references:
            assert item.context.count(value) == 1
            (text,) = [text for text in shown if value in text]
            assert re.search(r"for (\S+) is:", text)[1] in item.prompt


@pytest.mark.parametrize(("name", "pattern"), [("niah_multikey_2", WORDS), ("niah_multikey_3", UUID)])
def test_a_haystack_of_needles_has_one_needle_a_line_and_the_asked_key_once(name, pattern):
    for item in items(name, limit=3):
        found, lines = needles_in(item), item.context.split("\n")
        assert len(lines) - 1 <= len(found) <= len(lines)  # the last line may be cut
        assert len(found) > 60
        assert all(re.fullmatch(pattern, key) for _, key, _ in found)
        (asked,) = [key for _, key, _ in found if f" {key} " in item.prompt]
        assert asked


def test_no_other_needle_of_a_long_haystack_has_the_asked_key_or_value():
    for item in items("niah_multikey_2", limit=3, lengths=(400_000,)):
        found = needles_in(item)
        assert len({key for _, key, _ in found}) < len(found)  # other keys do repeat
        (asked,) = re.findall(WORDS, item.prompt)
        assert [value for _, key, value in found if key == asked] == list(item.references)
        assert [key for _, key, value in found if value in item.references] == [asked]


def test_questions_are_the_published_ones():
    (one,) = items("niah_single_3", limit=1)
    assert re.fullmatch(
        rf"What is the special magic uuid for {WORDS} mentioned in the provided text\?", one.prompt
    )
    (four,) = items("niah_multiquery", limit=1)
    names = rf"{WORDS}, {WORDS}, {WORDS}, and {WORDS}"
    assert re.fullmatch(
        rf"What are all the special magic numbers for {names} mentioned in the provided text\?", four.prompt
    )
    asked = re.findall(WORDS, four.prompt)
    values = {key: value for _, key, value in needles_in(four)}
    assert [values[key] for key in asked] == list(four.references)


@pytest.mark.parametrize("name", ESSAYS)
def test_the_rest_of_the_context_is_the_given_text_from_its_start(name):
    for item in items(name, limit=2, lengths=(1024, 40_000)):
        rest = re.sub(r" ?One of the special magic [^.]*\.", "", item.context).strip()
        text = " ".join(" ".join(HAYSTACKS * 4).split())
        assert text.startswith(rest)


def test_the_noise_is_five_sentences_over_and_over():
    (item,) = items("niah_single_1", limit=1)
    lines = [line for line in item.context.split("\n") if line not in evidence_of(item)]
    assert set(lines[:-1]) == {NOISE}
    assert NOISE.startswith(lines[-1])


def test_depths_are_spread_over_the_whole_context_and_told_in_tens():
    found = items("niah_single_2", limit=60)
    starts = [item.evidence[0][0] / len(item.context) for item in found]
    assert min(starts) < 0.1
    assert max(starts) > 0.88
    assert 0.4 < sum(starts) / len(starts) < 0.6
    assert all(
        abs(item.groups["depth_percent"] / 100 - start) < 0.08
        for item, start in zip(found, starts, strict=True)
    )
    assert {item.groups["depth_percent"] % 10 for item in found} == {0}


def test_needles_stand_between_sentences():
    for item in items("niah_multivalue", limit=5):
        for start, end in item.evidence:
            assert start == 0 or item.context[:start].rstrip()[-1] in ".!?"
            assert start == 0 or item.context[start - 1] == " "
            assert end == len(item.context) or item.context[end] == " "


@pytest.mark.parametrize(
    ("depths", "expected"),
    [
        ([0.0], "NEEDLE One is here. Two is there."),
        ([1.0], "One is here. Two is there. NEEDLE"),
        ([0.45], "One is here. NEEDLE Two is there."),
    ],
)
def test_a_needle_goes_to_the_nearest_end_of_a_sentence(depths, expected):
    passage = hide("One is here. Two is there.", " ", ["NEEDLE"], depths)
    ((start, end),) = passage.spans
    assert (passage.text, passage.text[start:end]) == (expected, "NEEDLE")


@pytest.mark.parametrize(
    ("hay", "expected"),
    [
        ("x" * 2000, "x" * 1000 + " N " + "x" * 1000),
        ("一二三。四五六。" * 200, "一二三。四五六。" * 100 + " N "),
    ],
)
def test_a_text_without_spaces_is_parted_where_it_can_be(hay, expected):
    assert hide(hay, " ", ["N"], [0.5]).text.startswith(expected)


def test_needles_of_one_place_keep_their_order_and_all_have_spans():
    passage = hide("a b.\nc d.\ne f.", "\n", ["N1", "N2", "N3"], [0.4, 0.35, 0.0])
    assert passage.text == "N3\na b.\nN2\nN1\nc d.\ne f."
    assert [passage.text[start:end] for start, end in passage.spans] == ["N1", "N2", "N3"]


def test_a_value_that_the_haystack_holds_already_is_not_hidden():
    (item,) = items("niah_single_2", limit=1)
    (value,) = item.references
    (other,) = items("niah_single_2", limit=1, haystacks=[f"The ledger says {value}.", *HAYSTACKS])
    assert other.references != (value,)
    assert other.context.count(other.references[0]) == 1


def test_an_essay_is_cut_at_words_and_begins_again_after_its_end():
    hay = essay(["one  two\n\nthree", " ", "four"])
    assert hay.cut(9) == "one two"
    assert hay.cut(31) == "one two three four one two three"[:31].rpartition(" ")[0]
    assert hay.cut(9) == "one two"


def test_the_heat_map_has_every_depth_of_every_length():
    found = list(NeedleHeatMap().items(request(limit=25, lengths=(1024, 4096))))
    cells = [(item.groups["length_tokens"], item.groups["depth_percent"]) for item in found]
    assert len(found) == 2 * 11 * 2
    assert {cell: cells.count(cell) for cell in cells} == {
        (length, depth): 2 for length in (1024, 4096) for depth in range(0, 101, 10)
    }
    for item in found:
        ((start, end),) = item.evidence
        place = start / (len(item.context) - (end - start))
        assert abs(place - item.groups["depth_percent"] / 100) < 0.02
    assert {item.evidence[0][0] for item in found if item.groups["depth_percent"] == 0} == {0}
    assert all(
        item.evidence[0][1] == len(item.context) for item in found if item.groups["depth_percent"] == 100
    )


@pytest.mark.parametrize(("limit", "expected"), [(1, 11), (11, 11), (50, 44)])
def test_the_limit_of_the_heat_map_is_that_of_a_length(limit, expected):
    assert len(list(NeedleHeatMap().items(request(limit=limit)))) == expected


def test_variable_tracking_hides_one_chain_of_four_hops_in_order():
    for item in items("vt", limit=6):
        chain = [
            re.fullmatch(r"VAR ([A-Z]{5}) = (?:VAR )?([A-Z]{5}|\d{5})", text) for text in evidence_of(item)
        ]
        names = [match[1] for match in chain]
        value = re.search(r"assigned the value (\d{5}) ", item.prompt)[1]
        assert tuple(names) == item.references
        assert [match[2] for match in chain] == [value, *names[:-1]]
        assert len(set(names)) == 5
        assert item.context.count(f"= {value}") == 1
        assert list(item.evidence) == sorted(item.evidence)
        assert "There are 5 of them." in item.prompt


def test_variable_tracking_shows_one_solved_example_of_its_own():
    for item in items("vt", limit=3):
        example, _, rest = item.context.partition("\nAnswer: ")
        names = rest.partition("\n")[0].split()
        assert len(names) == 5
        assert all(re.fullmatch("[A-Z]{3}", name) and f"VAR {name} = " in example for name in names)
        assert re.search(r"assigned the value (\d{5}) ", example)[1] not in item.prompt
        assert not any(name in example for name in item.references)
