"""Training under what starts several processes: refused in one sentence before a folder is touched, or trained as one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SMALL = ("--steps", "1", "--batch-size", "4", "--short-side", "64", "--output", "run")


def test_two_processes_of_torchrun(digits_folder: Path, tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command = [*launcher, "-m", "detrkit", "train", "detr-compact", "--data", str(digits_folder), *SMALL]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode != 0
    said = {line for line in result.stderr.splitlines() if line.startswith("detrkit: ")}
    assert said == {
        "detrkit: detrkit trains in one process, but 2 were started (WORLD_SIZE=2): start it without torchrun, or with one process"
    }
    assert "exitcode  : 2" in result.stderr  # torchrun's own report of the worker that ended first
    assert list(tmp_path.iterdir()) == []


def test_one_process_in_an_allocation_of_slurm_for_two(digits_folder: Path, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "SLURM_NTASKS": "2",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NAME": "train",
        "SLURM_PROCID": "0",
    }
    command = [sys.executable, "-m", "detrkit", "train", "detr-compact", "--data", str(digits_folder), *SMALL]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "run" / "best.safetensors").is_file()
    assert "Traceback" not in result.stderr
