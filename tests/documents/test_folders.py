import os
import random
import shutil
import subprocess
from collections import Counter

import pytest

from e2llm.documents import list_folder, load_documents
from e2llm.documents.folders import MAX_FILE_BYTES, is_code
from e2llm.errors import E2LLMError


def make(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def names(folder):
    return [file.relative_to(folder).as_posix() for file in list_folder(folder).files]


def test_all_text_files_are_listed_in_the_order_of_their_paths(tmp_path):
    make(tmp_path, {"b.py": "b", "a/z.toml": "z", "a/b.md": "b", "README": "r"})
    assert names(tmp_path) == ["README", "a/b.md", "a/z.toml", "b.py"]


def test_what_cannot_be_read_as_text_is_skipped_and_counted(tmp_path):
    make(
        tmp_path,
        {
            "ok.py": "x",
            "image.png": b"\x89PNG\0\0",
            "empty.py": "",
            "big.txt": "x" * (MAX_FILE_BYTES + 1),
            "app.min.js": "x",
            "poetry.lock": "x",
            "model/tokenizer.json": "{}",
            ".env": "SECRET=1",
        },
    )
    listing = list_folder(tmp_path)
    assert [file.name for file in listing.files] == ["ok.py"]
    counts = Counter(item.reason for item in listing.left_out)
    large = "has more than 2 MiB; name it to read it"
    assert counts == {"binary": 1, "empty": 1, large: 1, "generated": 3, "hidden": 1}
    assert str(listing).startswith(
        f"1 file(s), left out: 1 not read ({tmp_path}/big.txt: {large}), 1 binary ("
    )


def test_gitignore_is_respected_at_every_level(tmp_path):
    make(
        tmp_path,
        {
            ".git/config": "",
            ".gitignore": "build/\n*.log\n!keep.log\n/top.txt\n",
            "build/out.py": "x",
            "a.log": "x",
            "keep.log": "x",
            "top.txt": "x",
            "sub/top.txt": "x",
            "sub/.gitignore": "*.tmp\n!a.log\n",
            "sub/a.log": "x",
            "sub/b.tmp": "x",
            "sub/deep/c.tmp": "x",
            "other/b.tmp": "x",
        },
    )
    assert names(tmp_path) == ["keep.log", "other/b.tmp", "sub/a.log", "sub/top.txt"]


def test_a_gitignore_above_counts_within_the_repository(tmp_path):
    make(tmp_path, {".gitignore": "*.gen\n", "src/a.gen": "x", "src/a.py": "x"})
    assert names(tmp_path / "src") == ["a.gen", "a.py"]  # no repository: not ours to heed
    (tmp_path / ".git").mkdir()
    assert names(tmp_path / "src") == ["a.py"]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("*.py\n!/**/*\n", ["a.py", "d/a.py", "d/e/a.py", "d/e/f/b.py"]),
        ("\ufeffa.py\n", ["d/e/f/b.py"]),
        ("a.py\r\nf/\r\n", []),
    ],
    ids=["all again", "byte order mark", "CRLF"],
)
def test_a_gitignore_is_judged_as_git_judges_it(tmp_path, lines, expected):
    make(tmp_path, dict.fromkeys(["a.py", "d/a.py", "d/e/a.py", "d/e/f/b.py"], "x"))
    make(tmp_path, {".gitignore": lines})
    assert names(tmp_path) == expected


@pytest.mark.parametrize("folder", ["", "sub"])
def test_what_a_repository_excludes_is_left_out_unless_a_gitignore_takes_it_back(tmp_path, folder):
    make(tmp_path, {".git/info/exclude": "*.log\n", "sub/.gitignore": "!keep.log\n"})
    make(tmp_path, {"sub/a.log": "x", "sub/keep.log": "x", "sub/a.py": "x"})
    assert [name.removeprefix("sub/") for name in names(tmp_path / folder)] == ["a.py", "keep.log"]


PATTERNS = [
    "*",
    "!*/",
    "!*.py",
    "lib/**",
    "!keep.log",
    "build/",
    "!lib",
    "/*",
    "!/src/",
    "lib/*",
    "*.log",
    "/lib",
]
PATTERNS += [
    "!lib/keep.log",
    "**/build",
    "src/build/",
    "keep.*",
    "!src/**",
    "# comment",
    "",
    "a.py",
    "lib/a.py ",
]


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
@pytest.mark.parametrize("seed", range(12))
def test_gitignore_means_what_it_means_to_git(tmp_path, seed):
    rng = random.Random(seed)
    folders = ["", "lib/", "src/", "lib/build/", "src/lib/"]
    make(tmp_path, {f"{folder}{name}": "x" for folder in folders for name in ("a.py", "keep.log", "b.txt")})
    for folder in ("", rng.choice(folders[1:])):
        make(tmp_path, {f"{folder}.gitignore": "\n".join(rng.sample(PATTERNS, 4)) + "\n"})
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    subprocess.run(["git", "init", "-q", tmp_path], check=True, env=environment)
    command = ["git", "-C", str(tmp_path), "ls-files", "-o", "--exclude-standard"]
    expected = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    assert set(names(tmp_path)) == {name for name in expected.split() if not name.endswith(".gitignore")}


def test_a_file_with_a_zero_byte_anywhere_is_binary(tmp_path):
    make(tmp_path, {"late.txt": b"a" * 20_000 + b"\0", "ok.txt": "x"})
    assert [item.text for item in load_documents([tmp_path])] == ["x"]


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX only")
def test_a_name_that_is_no_utf8_is_read_all_the_same(engine, tmp_path):
    with open(os.fsencode(tmp_path) + b"/caf\xe9.py", "w") as file:
        file.write("x = 1\n")
    documents = load_documents([tmp_path])
    assert documents[0].heading == "# File: caf?.py\n"
    assert len(engine.read(documents, progress=False)) == 1


def test_a_long_path_keeps_its_end_and_leaves_room_for_the_chunk(engine, tmp_path):
    make(tmp_path, {"a-very-long-folder-name/" * 4 + "module.py": "x = 1\n" * 40})
    context = engine.read(load_documents([tmp_path]), progress=False)
    heading = context.documents[0].heading
    assert heading.endswith("module.py\n")
    assert len(heading) < 50
    rows = engine.processor.encode_chunk_ids(context.content.texts)
    assert max(len(row) for row in rows) <= engine.processor.max_chunk_tokens


def test_folders_of_tools_are_passed_over(tmp_path):
    make(tmp_path, {f"{name}/x.py": "x" for name in ("__pycache__", "node_modules", ".venv", "venv", ".git")})
    make(tmp_path, {"src/x.py": "x"})
    assert names(tmp_path) == ["src/x.py"]


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="needs links")
def test_links_are_not_followed(tmp_path):
    make(tmp_path, {"src/a.py": "x", "secret.txt": "x"})
    (tmp_path / "src" / "loop").symlink_to(tmp_path)
    (tmp_path / "src" / "out.txt").symlink_to(tmp_path / "secret.txt")
    assert names(tmp_path / "src") == ["a.py"]


def test_source_files_are_told_from_prose(tmp_path):
    make(tmp_path, {"tool": "#!/bin/sh\n", "notes": "text", "a.RS": "fn", "a.md": "# Head"})
    assert [is_code(tmp_path / name) for name in ("tool", "notes", "a.RS", "a.md")] == [
        True,
        False,
        True,
        False,
    ]


def test_files_of_a_code_folder_carry_their_path(tmp_path):
    make(tmp_path, {"src/pkg/a.py": "def f():\n    pass\n", "src/README.md": "Read me."})
    documents = load_documents([tmp_path / "src"])
    assert [(item.kind, item.heading) for item in documents] == [
        (None, "# File: README.md\n"),
        ("code", "# File: pkg/a.py\n"),
    ]
    assert documents[1].name == str(tmp_path / "src" / "pkg" / "a.py")


def test_files_of_a_folder_of_prose_have_no_heading(tmp_path):
    make(tmp_path, {"a.txt": "One.", "b.md": "Two."})
    assert [item.heading for item in load_documents([tmp_path])] == ["", ""]


def test_a_single_source_file_is_code(tmp_path):
    make(tmp_path, {"a.py": "x = 1\n", "a.txt": "x"})
    code, prose = load_documents([tmp_path / "a.py", tmp_path / "a.txt"])
    assert (code.kind, code.heading) == ("code", "# File: a.py\n")
    assert (prose.kind, prose.heading) == (None, "")


def test_a_folder_without_text_says_what_it_holds(tmp_path):
    make(tmp_path, {"a.png": b"\0"})
    with pytest.raises(E2LLMError, match=r"contains no text to read \(left out: 1 binary \(.*a\.png\)\)"):
        load_documents([tmp_path])
