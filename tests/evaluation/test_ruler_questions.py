import json
import re

import pytest
from ruler_samples import HAYSTACKS, evidence_of, request, write_hotpot, write_squad

from e2llm.errors import E2LLMError
from e2llm.evaluation.tasks import TASKS
from e2llm.evaluation.tasks.ruler.questions import read_hotpot, read_squad


def items(name, data, **options):
    return list(TASKS[name]().items(request(data=data, **options)))


def documents_of(item):
    """The texts under `Document 1:`, `Document 2:`, ..., which must be numbered without a gap."""
    numbers = [int(number) for number in re.findall(r"(?:^|\n\n)Document (\d+):\n", item.context)]
    assert numbers == list(range(1, len(numbers) + 1))
    return re.split(r"(?:^|\n\n)Document \d+:\n", item.context)[1:]


def test_squad_hides_the_golden_paragraph_among_others(tmp_path):
    write_squad(tmp_path)
    library = read_squad(tmp_path / "dev-v2.0.json")
    for item in items("qa_1", tmp_path, limit=12):
        article, number = re.search(r"Question: What is said in (\d) (\d)\?$", item.prompt).groups()
        shown = documents_of(item)
        golden = [text for text in library.documents if f"answer {article} {number}" in text]
        assert shown.count(golden[0]) == 1
        assert item.references == (f"answer {article} {number}",)
        assert evidence_of(item) == [f"answer {article} {number}"]
        assert item.context.count(item.references[0]) == 1


def test_paragraphs_of_the_same_article_come_first(tmp_path):
    write_squad(tmp_path)
    for item in items("qa_1", tmp_path, limit=12, lengths=(230,)):
        article = re.search(r"said in (\d)", item.prompt)[1]
        shown = documents_of(item)
        assert len(shown) in (4, 5)
        assert sum(f"of article {article}." in text for text in shown) == 4


def test_only_the_last_document_taken_is_cut_and_the_golden_ones_have_any_place(tmp_path):
    write_squad(tmp_path)
    library = read_squad(tmp_path / "dev-v2.0.json")
    found = items("qa_1", tmp_path, limit=12, lengths=(300,))
    assert all(sum(text not in library.documents for text in documents_of(item)) <= 1 for item in found)
    assert len({item.groups["depth_percent"] for item in found}) > 3


def test_haystacks_fill_up_where_the_paragraphs_run_out(tmp_path):
    write_squad(tmp_path)
    (item,) = items("qa_1", tmp_path, limit=1, lengths=(8000,))
    shown = documents_of(item)
    made = [text for text in shown if text.startswith("Paragraph")]
    assert len(made) == len(set(made)) == 12
    assert sum("made walker" in text for text in shown) > 40
    assert HAYSTACKS[0][:700] in item.context


def test_every_length_asks_the_same_questions_and_each_one_once(tmp_path):
    write_squad(tmp_path)
    found = items("qa_1", tmp_path, limit=50, lengths=(300, 1024))
    asked = {
        length: [item.prompt for item in found if item.groups["length_tokens"] == length]
        for length in (300, 1024)
    }
    assert asked[300] == asked[1024]
    assert len(set(asked[300])) == len(asked[300]) == 12
    assert asked[300] != sorted(asked[300])


def test_a_question_whose_paragraph_is_too_long_is_passed_over(tmp_path):
    write_squad(tmp_path, num_articles=1)
    file = tmp_path / "dev-v2.0.json"
    document = json.loads(file.read_text())
    document["data"][0]["paragraphs"][1]["context"] += " more" * 500
    file.write_text(json.dumps(document))
    assert len(items("qa_1", tmp_path, limit=9, lengths=(400,))) == 3
    assert len(items("qa_1", tmp_path, limit=9, lengths=(1024,))) == 4


ROW = {
    "id": "q1",
    "title": "T",
    "context": "The sky is wide. The sea is deep.",
    "question": "How is the sea?",
}
LINES = {
    "squad_v2.0_dev.jsonl": [{**ROW, "answers": ["deep", "is deep"], "is_impossible": False}],
    "xquad.jsonl": [
        {
            "context": ROW["context"],
            "prompt": ROW["question"],
            "answer": "deep",
            "references": ["is deep"],
            "evidence": [[28, 32]],
            "id": "T:q1",
        }
    ],
}


@pytest.mark.parametrize("name", LINES)
def test_lines_of_questions_and_records_are_read_too(tmp_path, name):
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / name).write_text("".join(json.dumps(row) + "\n" for row in LINES[name]))
    (item,) = items("qa_1", tmp_path, limit=2)
    assert item.references == ("deep", "is deep")
    assert evidence_of(item) == ["deep"]
    assert ROW["context"] in documents_of(item)


def test_hotpot_keeps_both_golden_paragraphs_and_its_own_others(tmp_path):
    write_hotpot(tmp_path)
    for item in items("qa_2", tmp_path, limit=5):
        number = re.search(r"tells of (\d)\?$", item.prompt)[1]
        shown = documents_of(item)
        assert {f"Title {number} {letter}" for letter in "ABCD"} <= {
            text.partition("\n")[0] for text in shown
        }
        assert item.references == (f"Title {number} C",)
        assert sorted(text.strip() for text in evidence_of(item)) == [
            f"Title {number} A opens.",
            f"Title {number} C tells of thing {number}.",
        ]


def test_hotpots_golden_paragraphs_come_before_all_others(tmp_path):
    write_hotpot(tmp_path)
    for item in items("qa_2", tmp_path, limit=5, lengths=(50,)):
        shown = " ".join(documents_of(item))
        number = re.search(r"tells of (\d)\?$", item.prompt)[1]
        assert all(f"Title {number} {letter} tells" in shown for letter in "AC")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("qa_1", "dev-v2.0.json .*xquad.en.json .*https://rajpurkar.github.io/SQuAD-explorer/"),
        ("qa_2", "hotpot_dev_distractor_v1.json .*https://hotpotqa.github.io/"),
    ],
)
def test_missing_data_are_named_with_their_home(tmp_path, name, words):
    with pytest.raises(E2LLMError, match=f"--data is missing; {name} needs .*{words}"):
        items(name, None)
    with pytest.raises(FileNotFoundError, match=f"{name} needs .*{words}"):
        items(name, tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", r"not HotpotQA's layout \(Input should be a valid array"),
        ("[{}]", r"not HotpotQA's layout \(0.question Field required"),
        (
            '[{"question": "Q", "answer": "A", "context": [["T", ["s"]]], "supporting_facts": [["U", 0]]}]',
            r"not HotpotQA's layout \(no paragraph 'U'",
        ),
    ],
)
def test_another_layout_than_hotpots_is_refused_with_the_place(tmp_path, text, words):
    file = tmp_path / "hotpot.json"
    file.write_text(text)
    with pytest.raises(E2LLMError, match=rf"hotpot\.json: {words}"):
        read_hotpot(file)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("squad.jsonl", "nonsense\n", "squad.jsonl:1: not a line of JSON"),
        ("squad.jsonl", '{"id": "a"}\n', "squad.jsonl:1: missing key"),
        ("dev-v2.0.json", '{"data": []}', "no question has an answer; qa_1 needs SQuAD"),
    ],
)
def test_bad_squad_files_are_refused_with_the_place(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(E2LLMError, match=words):
        items("qa_1", tmp_path)
