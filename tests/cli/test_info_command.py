"""`e2llm info`: extras as the metadata of installed distributions states them."""

import importlib.metadata
import json

from packaging.requirements import Requirement

from e2llm.cli.info import extra_facts, missing_of


def install(folder, name, version, *needed):
    """Make a distribution that importlib.metadata finds."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {item}" for item in needed]
    (info / "METADATA").write_text("\n".join(lines) + "\n")


def test_every_distribution_of_an_extra_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    install(
        tmp_path, "outer", "1.0", "core", 'here>=1; extra == "a"', 'gone; extra == "a"', 'x; extra == "b"'
    )
    install(tmp_path, "here", "0.9", 'deep; extra == "c"')
    assert missing_of(Requirement("outer[a]")) == ["here>=1", "gone"]
    assert missing_of(Requirement("here[c]>=0.5")) == ["deep"]
    assert missing_of(Requirement("outer")) == []
    assert missing_of(Requirement("absent")) == ["absent"]


def test_info_names_all_extras_for_users(run):
    extras = set(importlib.metadata.metadata("e2llm").get_all("Provides-Extra"))
    assert json.loads(run("info", "--json").out)["extras"].keys() == extras - {"docs", "dev"}


def test_info_names_what_is_missing_and_how_to_get_it(run, monkeypatch):
    monkeypatch.setattr("e2llm.cli.info.missing_of", lambda requirement: ["outer", "inner"])
    assert "smol: missing outer, inner: pip install 'e2llm[smol]'" in run("info").out


def test_a_source_tree_that_is_not_installed_has_no_extras(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "metadata", missing)
    assert extra_facts() == {}
