import random
import re

import pytest
from sample_files import write_json_lines, write_text

from e2llm.data.needles import wording
from e2llm.data.needles.wording import LISTED, NAMES, NOUNS
from e2llm.data.registry import DATASETS
from e2llm.data.sets.needles import KINDS, generate_needles, read_haystacks
from e2llm.errors import E2LLMError

HAYSTACKS = [f"The made walk number {number} was long. We rested. " * 400 for number in range(3)]


def generate(count=200, lengths=(300, 2000), **options):
    return list(generate_needles(HAYSTACKS, count, lengths, **options))


def needles_of(records):
    return " ".join(record.context[slice(*span)] for record in records for span in record.evidence)


def test_the_same_seed_gives_the_same_records_and_another_does_not():
    assert generate(20, seed=7) == generate(20, seed=7)
    assert generate(20, seed=7) != generate(20, seed=8)


def test_record_i_does_not_depend_on_how_many_are_drawn():
    assert generate(5) == generate(50)[:5]


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_part_of_the_answer_stands_in_the_evidence(kind):
    for record in generate(60, kinds=[kind]):
        evidence = " ".join(record.context[start:end] for start, end in record.evidence)
        assert all(part in evidence for part in record.answer.split(", "))


RULER = (
    "One of the special magic {type_needle_v} for {key} is: {value}.",
    "special magic",
    "mentioned in the provided text",
    "VAR {name} = {value}",
    "Find all variables that are assigned the value {query} in the text above.",
    "some appear more often than others",
    "most common words in the above list",
    "most frequently appeared words in the above coded text",
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.",
)
"""What RULER's published templates say, with gaps as in its code."""


def test_no_training_needle_says_what_ruler_says():
    said = [re.compile(re.sub(r"\\{\w+\\}", ".+", re.escape(text))) for text in RULER]
    texts = [text for record in generate(2000) for text in (record.context, record.prompt)]
    forms = [value for name, value in vars(wording).items() if name.isupper() and isinstance(value, tuple)]
    texts += [text for form in forms for item in form for text in ([item] if isinstance(item, str) else item)]
    assert len(texts) > 4000
    assert not [text for text in texts for pattern in said if pattern.search(text)]


@pytest.mark.parametrize("kind", ["number", "word", "multi_key"])
def test_one_value_is_asked_by_a_key_that_stands_once(kind):
    for record in generate(60, kinds=[kind]):
        (key,) = re.findall(r"\b[a-z]+-[a-z]+\b", record.prompt)
        assert record.context.count(key) == 1
        assert len(record.evidence) == 1


def test_multi_key_hides_other_keys_too():
    hidden = [
        len(re.findall(r"\b[a-z]+-[a-z]+\b", record.context)) for record in generate(60, kinds=["multi_key"])
    ]
    assert min(hidden) >= 2


def test_multi_value_answers_in_text_order():
    for record in generate(60, kinds=["multi_value"]):
        places = [record.context[start:end] for start, end in record.evidence]
        assert all(value in place for value, place in zip(record.answer.split(", "), places, strict=True))


def test_multi_query_answers_in_the_order_asked():
    for record in generate(60, kinds=["multi_query"]):
        keys = re.findall(r"\b[a-z]+-[a-z]+\b", record.prompt)
        for key, value in zip(keys, record.answer.split(", "), strict=True):
            (line,) = [record.context[a:b] for a, b in record.evidence if key in record.context[a:b]]
            assert value in line


@pytest.mark.parametrize("kind", ["facts", "text_facts"])
def test_only_one_of_several_facts_answers_the_question(kind):
    rng = random.Random(1)
    for _ in range(200):
        task = KINDS[kind](rng, 7, LISTED)
        (gold,) = task.gold
        assert task.answer in task.texts[gold]
        told_apart = [needle.replace(task.answer, "") for needle in task.texts]
        assert told_apart.count(told_apart[gold]) == 1


def test_facts_are_told_in_words_and_names_of_the_haystacks():
    letters = "abcdefghijklmnopqrstuvwxy"
    words = [f"qu{letter}le" for letter in letters]
    names = [f"Zu{letter}ta" for letter in letters]
    texts = [f"so {word} saw {name} there." for word, name in zip(words, names, strict=True)]
    told = needles_of(generate_needles(texts, 200, [300], ["text_fact"]))
    assert all(word in told for word in words)
    assert all(name in told for name in names)
    assert not any(name in told for name in NAMES)


def test_facts_of_haystacks_with_few_words_are_told_in_listed_ones():
    told = needles_of(generate(kinds=["text_fact"]))
    assert any(noun in told for noun in NOUNS)
    assert any(name in told for name in NAMES)


def test_contexts_have_about_the_length_asked_for():
    for record in generate(lengths=(1000, 5000)):
        wanted = int(record.id.split("-")[1])
        assert wanted - 10 <= len(record.context) <= wanted + 10


def test_depths_cover_the_whole_context():
    depths = [int(record.id.split("-")[2]) for record in generate(300, kinds=["number"])]
    assert min(depths) < 10
    assert max(depths) > 90


def test_the_id_tells_kind_length_and_depth():
    (record,) = generate(1, lengths=(500,), kinds=["word"])
    assert re.fullmatch(r"word-500-\d{1,3}-0", record.id)


def test_short_haystacks_are_joined_to_reach_the_length():
    (record,) = generate_needles(["One made line. Two."], 1, [900], ["number"])
    assert len(record.context) > 850


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kinds": ["novel"]}, "unknown kind"),
        ({"lengths": (50,)}, "at least 60"),
        ({"lengths": ()}, "at least 60"),
    ],
)
def test_arguments_out_of_range_are_errors(arguments, message):
    with pytest.raises(E2LLMError, match=message):
        generate(**arguments)


def test_no_haystack_is_an_error():
    with pytest.raises(E2LLMError, match="the haystacks are empty"):
        list(generate_needles([" "], 1, [300]))


def test_haystacks_come_from_records_too(tmp_path):
    rows = [{"context": "Made hay.", "prompt": "", "answer": ""}] * 2
    assert read_haystacks(write_json_lines(tmp_path / "r.jsonl", rows)) == ["Made hay."]


def test_the_converter_passes_its_options_on(tmp_path):
    source = write_text(tmp_path / "hay.txt", HAYSTACKS[0])
    converter = DATASETS["needles"](num_records=3, lengths_chars=(400,), kinds=("word",), seed=5)
    records = list(converter.convert(source, "train"))
    assert records == list(generate_needles([HAYSTACKS[0]], 3, [400], ["word"], seed=5))
