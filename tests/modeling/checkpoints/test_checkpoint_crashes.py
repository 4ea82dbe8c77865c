"""Shards of a checkpoint, and what a crash while saving leaves."""

import json
import os
import shutil
from pathlib import Path

import pytest
from checkpoint_folders import MANIFEST, change, load, stored_names, with_lora
from transformers import (
    AutoModelForCausalLM,
)

from e2llm.modeling import lora
from e2llm.modeling.checkpoints import publication, save
from tiny_models import (
    assert_same_model,
    tiny_model,
)


def test_a_sharded_checkpoint_has_an_index_and_loads(model, tmp_path, inputs):
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 3
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == stored_names(tmp_path)
    assert_same_model(model, load(tmp_path), inputs)


def test_files_of_a_former_checkpoint_go_and_others_stay(model, tmp_path, inputs):
    with_lora(model).save_pretrained(tmp_path, max_shard_size="20KB")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "optimizer.pt").write_text("a trainer's")
    lora.merge_lora(model)
    model.save_pretrained(tmp_path)
    names = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()}
    assert names == {
        "config.json",
        "generation_config.json",
        MANIFEST,
        "model.safetensors",
        "notes.txt",
        "optimizer.pt",
    }
    assert_same_model(model, load(tmp_path), inputs)


def test_an_error_while_writing_leaves_the_former_checkpoint(model, tmp_path, inputs, monkeypatch):
    model.save_pretrained(tmp_path)
    before = sorted(file.name for file in tmp_path.iterdir())

    def full_disk(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(save, "save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        change(tiny_model(), seed=9).save_pretrained(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == before
    assert_same_model(model, load(tmp_path), inputs)


class Killed(BaseException):
    """The process ends here; nothing after this moment happens."""


def kill_at(monkeypatch, moment):
    """Let the process die at the given file operation, counted from 1."""
    count, rmtree = 0, shutil.rmtree

    def counted(operation):
        def run(*args, **kwargs):
            nonlocal count
            count += 1
            if count >= moment:
                if operation is rmtree:  # it dies half way
                    os.remove(next(file for file in sorted(Path(args[0]).rglob("*")) if file.is_file()))
                raise Killed
            return operation(*args, **kwargs)

        return run

    operations = ((os, "rename"), (os, "replace"), (os, "link"), (shutil, "rmtree"), (Path, "unlink"))
    for module, name in operations:
        monkeypatch.setattr(module, name, counted(getattr(module, name)))


def test_a_crash_at_any_moment_leaves_the_former_or_the_new_checkpoint(tmp_path, monkeypatch, inputs):
    former, new = tiny_model(max_soft_tokens=4), change(tiny_model(max_soft_tokens=6), seed=9)
    folder, outcomes = tmp_path / "saved", []
    for moment in range(1, 100):
        shutil.rmtree(folder, ignore_errors=True)
        former.save_pretrained(folder, max_shard_size="100KB")
        with monkeypatch.context() as patch:
            kill_at(patch, moment)
            try:
                new.save_pretrained(folder)
                break
            except Killed:
                pass
        loaded = AutoModelForCausalLM.from_pretrained(folder)
        outcomes.append("new" if loaded.config.max_soft_tokens == 6 else "former")
        assert_same_model(new if outcomes[-1] == "new" else former, loaded, inputs)
        if moment % 3:
            continue
        new.save_pretrained(folder)
        assert_same_model(new, load(folder), inputs)
        assert not [file for file in folder.iterdir() if file.name.startswith(".")]
    assert set(outcomes) == {"former", "new"}
    assert outcomes == sorted(outcomes)
    assert len(outcomes) > 8


def test_an_interrupted_save_is_finished_before_the_next_one(tmp_path):
    complete = tmp_path / publication.COMPLETE_NAME
    complete.mkdir()
    for name in ("placed.txt", "waiting.txt"):
        (complete / name).write_text(name)
    os.link(complete / "placed.txt", tmp_path / "placed.txt")
    with publication.publishing(tmp_path, owned=()) as staging:
        (staging / "new.txt").write_text("new")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["new.txt", "placed.txt", "waiting.txt"]


def test_saving_works_on_a_file_system_without_hard_links(model, tmp_path, monkeypatch, inputs):
    def no_links(*_):
        raise OSError("Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    model.save_pretrained(tmp_path)
    assert_same_model(model, load(tmp_path), inputs)
