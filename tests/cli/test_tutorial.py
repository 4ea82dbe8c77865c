"""The way of docs/tutorial.md can be walked: its steps run in their order, with a tiny one as recipe."""

import re
import shlex
from pathlib import Path

import pytest

from e2llm.training import overfit
from tiny_models import TEXT, tiny_decoder, tiny_decoder_tokenizer, tiny_encoder, tiny_encoder_tokenizer

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
RECIPE = """
name: qlora
output: runs/qlora
encoder: {source: parts/encoder, mode: frozen}
decoder: {source: parts/decoder, mode: full}
adapter: {max_soft_tokens: 2}
data: {train: [{path: train.jsonl}], validation_fraction: 0.2}
objectives: {soft_tokens: [2, 1]}
train: {precision: fp32, steps: 1, batch_size: 2,
  evaluate_every_steps: 1, evaluate_samples: 2, save_every_steps: 1}
stages: [{stage: understanding}, {stage: joint}]
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Texts as the first step leaves them, and questions on them."""
    for name in ("texts", "more-texts", "recipes"):
        (tmp_path / name).mkdir()
    (tmp_path / "recipes" / "qlora.yaml").write_text(RECIPE)
    tiny_encoder().save_pretrained(tmp_path / "parts" / "encoder")
    tiny_encoder_tokenizer().save_pretrained(tmp_path / "parts" / "encoder")
    tiny_decoder(max_position_embeddings=4096).save_pretrained(tmp_path / "parts" / "decoder")
    tiny_decoder_tokenizer().save_pretrained(tmp_path / "parts" / "decoder")
    (tmp_path / "more-texts" / "unasked.txt").write_text("Nobody asked about the lighthouse. " * 9)
    rows = ["file,question,answer"]
    for number in range(12):
        (tmp_path / "texts" / f"report-{number}.txt").write_text(f"Report {number}. {TEXT}")
        rows.append(f"report-{number}.pdf,Where is the key?,under the stone")
    (tmp_path / "texts" / "report.txt").write_text(TEXT)
    (tmp_path / "questions.csv").write_text("\n".join(rows) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_every_step_after_the_pdfs_runs(folder, run, monkeypatch):
    monkeypatch.setattr(overfit, "MAX_STEPS", 1)  # whether it learns is not what is asked
    monkeypatch.setattr(overfit, "NEAR_ZERO", 100.0)
    done = []
    for language, block in BLOCKS:
        if language == "python":
            exec(compile(block, "docs/tutorial.md", "exec"), {})
        for line in block.replace("\\\n", "").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["cat"]:
                with open(words[-1], "a") as file:
                    file.write(Path(words[1]).read_text())
            if words[:1] != ["e2llm"] or words[1] == "serve":
                continue
            result = run(*words[1:])
            assert result.code == 0, (line, result.err)
            assert result.out, line
            done.append(words[1])
    assert done == ["prepare", "prepare", "train", "train", "train", "eval", "ask"]
    held_out = (folder / "records" / "test.jsonl").read_text().splitlines()
    trained = (folder / "records" / "train.jsonl").read_text()
    assert len(held_out) == 2
    assert not any(line in trained for line in held_out)
    assert "lighthouse" in trained
