"""Weights shared out between processes (FSDP2): ragged numbers of chunks, saving, loading."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run_two(encoder, decoder, mode, folder, agrees):
    """Two processes of sharded_worker.py; a deadlock ends after its process group's timeout."""
    worker = Path(__file__).with_name("sharded_worker.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*command, str(worker), encoder, decoder, mode, str(folder), agrees],
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{worker.parent}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=180,
    )


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["lora", "full", "frozen"])
def test_a_sharded_model_trains_as_the_whole_one_however_ragged_the_chunks(encoder, decoder, mode, tmp_path):
    done = run_two(encoder, decoder, mode, tmp_path, "agree")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_without_agreement_on_the_passes_a_sharded_encoder_fails(encoder, decoder, tmp_path):
    assert run_two(encoder, decoder, "lora", tmp_path, "alone").returncode != 0
