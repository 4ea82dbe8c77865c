import pytest
import typer

from e2llm.cli.options import parse_lengths


@pytest.mark.parametrize(
    ("text", "lengths"),
    [
        ("4096", [4096]),
        ("4096,128K,1M", [4096, 131072, 1048576]),
        ("4k, 4096 ,8K", [4096, 8192]),
        ("16_384", [16384]),
    ],
)
def test_lengths_are_numbers_with_units(text, lengths):
    assert parse_lengths(text, "--lengths") == lengths


@pytest.mark.parametrize("text", ["", "0", "-4K", "4KB", "1.5M", "4096,,x", "_1"])
def test_lengths_that_are_none_are_refused(text):
    with pytest.raises(typer.BadParameter, match="--lengths takes whole numbers of 1 or more"):
        parse_lengths(text, "--lengths")


def test_lengths_below_the_least_are_refused():
    assert parse_lengths("64", "--contexts", 64) == [64]
    with pytest.raises(typer.BadParameter, match="--contexts takes whole numbers of 64 or more"):
        parse_lengths("128,63", "--contexts", 64)
