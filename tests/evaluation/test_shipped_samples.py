import lzma
import runpy
from pathlib import Path

import pytest

from e2llm import Record
from e2llm.data.registry import DATASETS
from e2llm.evaluation.tasks.record_sources import default_haystacks, read_sample, sample_file

write_sample = runpy.run_path(str(Path(__file__).parents[2] / "recipes" / "make_samples.py"))["write_sample"]
RECORDS = [
    Record("One.", "Q?", "A", references=("B",), evidence=((0, 3),), id="1", source="s"),
    Record("One.", "R?", "A"),
    Record("Two.", "Q?", "Ä"),
    Record("One.", "S?", "A"),
]


def test_what_is_written_is_read(tmp_path):
    file = tmp_path / "s.jsonl.xz"
    assert write_sample(file, RECORDS) == 4
    assert list(read_sample(file)) == RECORDS


def test_a_context_is_written_once_for_a_run_of_records(tmp_path):
    write_sample(tmp_path / "s.jsonl.xz", RECORDS)
    lines = lzma.decompress((tmp_path / "s.jsonl.xz").read_bytes()).splitlines()
    assert [b'"context"' in line for line in lines] == [True, False, True, True]


def test_the_same_records_make_the_same_bytes(tmp_path):
    made = [tmp_path / name for name in ("a.xz", "b.xz")]
    for file in made:
        write_sample(file, RECORDS)
    assert made[0].read_bytes() == made[1].read_bytes()


@pytest.mark.parametrize(("name", "num_contexts"), [("fairytaleqa", 23), ("qmsum", 35)])
def test_the_shipped_samples_are_whole(name, num_contexts):
    records = list(read_sample(sample_file(name)))
    assert len(records) == DATASETS[name].published_counts["validation"]
    assert len({record.context for record in records}) == num_contexts
    assert {record.source for record in records} == {name}
    assert len({record.id for record in records}) == len(records)


def test_the_default_haystacks_are_the_stories():
    stories = default_haystacks()
    assert len(stories) == len(set(stories)) == 23
    assert min(map(len, stories)) > 2000


def test_the_samples_are_part_of_the_package_and_name_their_licences():
    folder = sample_file("qmsum").parent
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert '"evaluation/samples/*"' in project
    readme = (folder / "README.md").read_text(encoding="utf-8")
    for name in ("fairytaleqa", "qmsum"):
        assert (folder / f"LICENSE.{name}").is_file()
        assert f"LICENSE.{name}" in readme
