import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from run_folders import pair_test, prediction, write_run

from e2llm.errors import E2LLMError
from e2llm.evaluation.report.plots import plot_name
from e2llm.evaluation.report.report import NO_PLOTS, write_report

HOSTILE = (
    "</pre></details><script>alert(1)</script>|a|`b`\n```\n# no heading\r\n\x1b[31m\u202e\ud800 <img src=x>"
)
VOID = {"meta", "img", "br", "wbr"}


class Page(HTMLParser):
    """Tags with their attributes, the text of each, and whether all are closed in order."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.open, self.texts = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if "style" not in self.open:
            self.texts.append(text)

    @property
    def text(self):
        return "".join(self.texts)


def two_systems(score_a=0.25, score_b=0.75, **changes):
    return [
        prediction("qmsum", system, f"item-{number}", score, **changes)
        for system, score in (("bm25", score_a), ("e2llm", score_b))
        for number in (1, 2)
    ]


@pytest.fixture
def report(tmp_path):
    """Writes a run and its report, and gives both forms of it."""

    def write(predictions, **changes):
        folder = write_run(tmp_path / "run", predictions, **changes)
        html, markdown, *_ = write_report(folder)
        return Page(html.read_text(encoding="utf-8")), markdown.read_text(encoding="utf-8")

    return write


@pytest.fixture
def no_matplotlib(monkeypatch):
    monkeypatch.setattr("e2llm.evaluation.report.report.has_matplotlib", lambda: False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)


@pytest.mark.usefixtures("no_matplotlib")
class TestTables:
    def test_the_best_is_bold_and_what_is_not_significantly_worse_is_marked(self, report):
        predictions = [*two_systems(), prediction("qmsum", "full", "item-1", 0.5)]
        predictions.append(prediction("qmsum", "full", "item-2", 0.5))
        tests = [pair_test("qmsum", "bm25", "e2llm", 0.04), pair_test("qmsum", "e2llm", "full", 0.05)]
        page, markdown = report(predictions, comparisons=tests)
        row = "| 0.250<br>0.200 to 0.300 | **0.750** ★<br>0.700 to 0.800 | 0.500 ≈<br>0.450 to 0.550 |"
        assert row in markdown
        assert sum(attributes.get("class") == "best" for _, attributes in page.tags) == 1
        assert "≈ a system that a paired test does not find significantly worse" in page.text

    def test_of_losses_the_lowest_is_best(self, report):
        predictions = [
            prediction("perplexity", system, "item-1", loss, scores={"loss_nats": loss})
            for system, loss in (("bm25", 2.0), ("e2llm", 1.0))
        ]
        _, markdown = report(predictions)
        assert "loss\\_nats, lower is better, 1 item" in markdown
        assert "| 2.000<br>1.950 to 2.050 | **1.000** ★<br>" in markdown

    def test_a_mean_with_refused_items_is_shown_as_such_and_not_called_best(self, report):
        predictions = [*two_systems(0.25, 0.9), prediction("qmsum", "bm25", "item-3", 0.25)]
        predictions.append(prediction("qmsum", "e2llm", "item-3", None))
        page, markdown = report(predictions)
        assert "| 0.900<br>0.850 to 0.950<br>**refused 1 of 3** |" in markdown
        assert "★ |" not in markdown
        assert "e2llm refused 1" in page.text

    def test_a_system_that_refused_everything_has_no_mean(self, report):
        predictions = [
            prediction("qmsum", "full", "item-1", None),
            prediction("qmsum", "bm25", "item-1", 0.5),
        ]
        _, markdown = report(predictions)
        assert "| qmsum<br>f1, 1 item | –<br>**refused 1 of 1** | 0.500<br>0.450 to 0.550 |" in markdown

    def test_systems_that_refuse_the_same_items_are_compared(self, report):
        predictions = [*two_systems(), prediction("qmsum", "bm25", "item-3", None)]
        predictions.append(prediction("qmsum", "e2llm", "item-3", None))
        _, markdown = report(predictions)
        assert "**0.750** ★<br>0.700 to 0.800<br>**refused 1 of 3**" in markdown

    def test_systems_that_score_the_same_get_no_marks(self, report):
        _, markdown = report([prediction("qmsum", system, "item-1", 0.0) for system in ("e2llm", "bm25")])
        assert "0.000" in markdown
        assert "**0.000**" not in markdown

    def test_breakdowns_are_in_the_order_of_numbers(self, report):
        predictions = [
            prediction("qmsum", "full", f"item-{length}", score, groups={"length_tokens": length})
            for length, score in ((131072, 0.75), (4096, 0.5), (10000, 0.25))
        ]
        _, markdown = report(predictions)
        assert "| task | system | 4K | 10,000 | 128K |" in markdown
        assert "0.750<br>0.750 to 0.750 (n = 1) |" in markdown

    def test_examples_are_the_first_ten_by_number(self, report):
        page, _ = report([prediction("qmsum", "bm25", f"item-{number}", 0.5) for number in range(12, 0, -1)])
        named = re.findall(r"What of (item-\d+)", page.text)
        assert named == [f"item-{number}" for number in range(1, 11)]

    def test_costs_have_their_units(self, report):
        _, markdown = report([prediction("qmsum", "bm25", "item-1", 0.5)])
        assert "| qmsum | bm25 | 512 | 10,234 | 5.0% | 0.300 | 0.110 | 12 | 1.0 MB | 12 |" in markdown

    def test_provenance_is_flat(self, report):
        _, markdown = report([prediction("qmsum", "bm25", "item-1", 0.5)])
        assert "| versions.torch | 2.13.0 |" in markdown
        assert "- Budget: 2,048 decoder positions" in markdown


@pytest.mark.usefixtures("no_matplotlib")
class TestForeignText:
    def test_no_text_becomes_a_tag(self, report):
        entry = prediction(
            "qmsum", "bm25", HOSTILE, 0.5, prompt=HOSTILE, prediction=HOSTILE, references=[HOSTILE]
        )
        page, _ = report([entry, prediction("qmsum", "full", HOSTILE, None, error=HOSTILE)])
        names = {name for name, _ in page.tags}
        assert not names & {"script", "img", "link", "iframe"}
        assert page.text.count("<script>alert(1)</script>|a|`b`") >= 5

    def test_hostile_names_stay_in_their_cells(self, report):
        entry = prediction(HOSTILE, HOSTILE, "item-1", 0.5, groups={HOSTILE: HOSTILE})
        page, markdown = report([entry, prediction(HOSTILE, "bm25", "item-1", 0.25)])
        assert "script" not in {name for name, _ in page.tags}
        tables = re.findall(r"(?:^\| .*\n)+", markdown, flags=re.MULTILINE)
        for table in tables:
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
        assert "<script" not in re.sub(r"```+text\n.*?\n```+\n", "", markdown, flags=re.DOTALL)

    def test_a_fence_is_longer_than_any_in_the_text(self, report):
        entry = prediction("qmsum", "bm25", "item-1", 0.5, prediction="a\n`````\n# b")
        _, markdown = report([entry])
        assert "``````text\na\n`````\n# b\n``````\n" in markdown

    def test_controls_and_half_characters_are_spelled_out(self, report):
        page, markdown = report([prediction("qmsum", "bm25", "item-1", 0.5, prediction=HOSTILE)])
        assert "\\x1b[31m\\u202e\\ud800" in page.text
        assert not {"\x1b", "\u202e", "\r"} & set(markdown)

    def test_a_long_text_is_cut_and_says_so(self, report):
        page, _ = report([prediction("qmsum", "bm25", "item-1", 0.5, prediction="x" * 5000)])
        assert "x\n[... 1,000 more characters]" in page.text


class TestPage:
    def test_it_fetches_nothing_and_runs_nothing(self, report):
        page, _ = report(two_systems())
        for name, attributes in page.tags:
            assert name not in {"script", "link", "iframe", "object"}
            assert not [key for key in attributes if key.startswith("on")]
            assert attributes.get("src", "data:").startswith("data:")
            assert attributes.get("href", "#").startswith("#")

    def test_links_lead_to_sections_and_no_name_is_given_twice(self, report):
        page, _ = report(two_systems())
        names = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
        links = {attributes["href"][1:] for name, attributes in page.tags if name == "a"}
        assert links <= set(names)
        assert len(names) == len(set(names))

    def test_tables_have_their_caption_and_header_cells_their_scope(self, report):
        page, _ = report(two_systems(groups={"difficulty": "hard"}))
        names = [name for name, _ in page.tags]
        assert names.count("caption") == names.count("table") > 2
        scopes = {attributes.get("scope") for name, attributes in page.tags if name == "th"}
        assert scopes == {"col", "row"}

    def test_plots_are_in_both_and_take_no_formula_from_a_name(self, report):
        page, markdown = report([prediction("qmsum", "bm25 $x<y$", "item-1", 0.5)])
        source, alt = next(
            (attributes["src"], attributes["alt"]) for name, attributes in page.tags if name == "img"
        )
        assert source.startswith("data:image/png;base64,iVBOR")
        assert alt.startswith("Score against decoder positions")
        assert "](plots/score-against-cost.png)" in markdown


class TestFiles:
    def test_the_same_run_gives_the_same_bytes(self, tmp_path):
        groups = {"depth_percent": 0, "length_tokens": 1024}
        folder = write_run(tmp_path, two_systems(groups=groups))
        files = write_report(folder)
        before = {file: file.read_bytes() for file in files}
        assert {file.name for file in files} == {
            "report.html",
            "report.md",
            "score-against-cost.png",
            "heat-qmsum.png",
        }
        assert {file: file.read_bytes() for file in write_report(folder)} == before

    def test_without_matplotlib_there_are_no_plots_and_it_is_said(self, report, no_matplotlib, tmp_path):
        page, markdown = report(two_systems())
        assert NO_PLOTS in page.text
        assert NO_PLOTS.replace("[", "\\[").replace("]", "\\]") in markdown
        assert not (tmp_path / "run" / "plots").exists()

    def test_needles_have_a_heat_map_also_of_losses_and_of_refused_items(self, tmp_path):
        predictions = [
            prediction(
                task,
                "bm25",
                f"{depth}",
                score,
                scores={} if score is None else {"loss_nats": score},
                groups={"depth_percent": depth, "length_tokens": 1024},
            )
            for task in ("niah", "perplexity")
            for depth, score in ((0, 2.0), (50, 3.0), (100, None))
        ]
        names = {file.name for file in write_report(write_run(tmp_path, predictions))}
        assert {"heat-niah.png", "heat-perplexity.png"} <= names

    def test_a_task_name_cannot_leave_the_folder_nor_hit_another_tasks_file(self):
        assert plot_name("niah_single_1") == "niah-single-1"
        assert re.fullmatch(r"etc-passwd-[0-9a-f]{8}", plot_name("../../etc/passwd"))
        assert plot_name("a=b") != plot_name("a/b")

    def test_a_folder_may_be_relative(self, tmp_path, monkeypatch):
        write_run(tmp_path / "runs" / "mine", two_systems())
        monkeypatch.chdir(tmp_path)
        files = write_report(Path("runs/mine"))
        assert all((tmp_path / file).is_file() for file in files)
        assert (tmp_path / "runs" / "mine" / "report.html").is_file()

    def test_a_half_written_last_line_is_left_out(self, tmp_path):
        folder = write_run(tmp_path, two_systems())
        before = write_report(folder)[1].read_text(encoding="utf-8")
        with (folder / "predictions.jsonl").open("a") as stream:
            stream.write('{"system": "bm2')
        assert write_report(folder)[1].read_text(encoding="utf-8") == before

    def test_a_damaged_line_is_an_error_with_its_number(self, tmp_path):
        folder = write_run(tmp_path, two_systems())
        file = folder / "predictions.jsonl"
        file.write_text("{\n" + file.read_text())
        with pytest.raises(E2LLMError, match=r"predictions\.jsonl:1 is not a prediction"):
            write_report(folder)

    def test_a_line_that_lacks_a_key_is_an_error_that_names_it(self, tmp_path):
        folder = write_run(tmp_path, two_systems())
        with (folder / "predictions.jsonl").open("a") as stream:
            stream.write('{"system": "bm25", "task": "qmsum"}\n')
        with pytest.raises(E2LLMError, match=r"predictions\.jsonl:5 is not a prediction \(it lacks 'id'\)"):
            write_report(folder)

    def test_a_run_of_no_items_has_a_report(self, tmp_path):
        html = write_report(write_run(tmp_path, []))[0].read_text(encoding="utf-8")
        assert "Mean score of each system on each task" in html

    def test_an_unfinished_run_says_how_to_finish_it(self, tmp_path):
        folder = write_run(tmp_path, two_systems())
        (folder / "scores.json").unlink()
        with pytest.raises(E2LLMError, match=r"has no scores\.json: the run is not finished"):
            write_report(folder)

    def test_scores_that_are_something_else_are_an_error(self, tmp_path):
        folder = write_run(tmp_path, two_systems())
        (folder / "scores.json").write_text(json.dumps({"scores": []}))
        with pytest.raises(E2LLMError, match=r"scores\.json is damaged \(it lacks 'provenance'\)"):
            write_report(folder)
