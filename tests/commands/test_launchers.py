"""Training under what starts several processes, as a user starts it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from support import heed_interrupts

TRAIN = ("-m", "detrkit", "train", "detr-compact", "--short-side", "64", "--batch-size", "4", "--output", "run")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run")


def start(
    command: list[str], folder: Path, *, start_new_session: bool = False, **variables: str
) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    prepare = heed_interrupts if start_new_session else None
    return subprocess.Popen(
        command, cwd=folder, env=environment, start_new_session=start_new_session, preexec_fn=prepare, **pipes
    )


def check_run(folder: Path, printed: str, *, devices: int, nodes: int = 1) -> None:
    """A run of several processes that printed and wrote everything once."""
    assert printed.count("Run folder: ") == printed.count("Best model: ") == 1
    assert f"shared by {devices * nodes} processes" in printed
    names = {path.name for path in (folder / "run").iterdir()}
    assert {"best.safetensors", "last.safetensors", "resume.ckpt", "report.html", "log.csv"} <= names
    options = json.loads((folder / "run" / "config.json").read_text())["options"]
    assert (options["devices"], options["nodes"]) == (devices, nodes)


@pytest.mark.slow
def test_devices(digits_folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, *TRAIN, "--data", str(digits_folder), "--steps", "1", "--devices", "2"]
    process = start(command, tmp_path)
    printed, said = process.communicate()
    assert process.returncode == 0, said
    assert said == ""
    check_run(tmp_path, printed, devices=2)


@pytest.mark.slow
def test_torchrun(digits_folder: Path, tmp_path: Path) -> None:
    command = [*TORCHRUN, "--nproc-per-node", "2", "--standalone", *TRAIN, "--data", str(digits_folder), "--steps", "1"]
    process = start(command, tmp_path)
    printed, said = process.communicate()
    assert process.returncode == 0, said
    check_run(tmp_path, printed, devices=2)


@dataclass(frozen=True)
class Node:
    """A machine of several, or what stands for one: its address, and what a command that runs on it begins with."""

    address: str
    prefix: tuple[str, ...] = ()
    interface: str = "lo"


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def machines() -> Iterator[list[Node]]:
    """Two network namespaces that share nothing but a cable: neither reaches the other's loopback."""
    names = [f"detrkit{os.getpid()}n{number}" for number in (1, 2)]
    cables = [f"dk{os.getpid()}n{number}" for number in (1, 2)]
    nodes = [
        Node(f"10.77.0.{number}", ("ip", "netns", "exec", name), cable)
        for number, name, cable in zip((1, 2), names, cables, strict=True)
    ]
    with ExitStack() as undo:
        try:
            for name in names:
                ip("netns", "add", name)
                undo.callback(ip, "netns", "delete", name)
            ends = [("netns", name) for name in names]
            ip("link", "add", cables[0], *ends[0], "type", "veth", "peer", "name", cables[1], *ends[1])
            for node, name in zip(nodes, names, strict=True):
                ip("-n", name, "address", "add", f"{node.address}/24", "dev", node.interface)
                for interface in ("lo", node.interface):
                    ip("-n", name, "link", "set", interface, "up")
        except (FileNotFoundError, subprocess.CalledProcessError) as error:
            pytest.skip(f"needs `ip` and the right to make network namespaces: {error}")
        yield nodes


def check_two_nodes(nodes: list[Node], launcher: str, digits_folder: Path, folder: Path) -> None:
    """Trains on two nodes with two processes each."""
    port, train = str(find_free_network_port()), [*TRAIN, "--data", str(digits_folder), "--steps", "2"]
    started = []
    for number, node in enumerate(nodes):
        variables = {"GLOO_SOCKET_IFNAME": node.interface}
        if launcher == "torchrun":
            place = ["--nnodes=2", f"--node-rank={number}", f"--local-addr={node.address}"]
            place += ["--rdzv-backend=c10d", f"--rdzv-endpoint={nodes[0].address}:{port}"]
            # Said, since it is otherwise guessed from the host's name, which two namespaces share.
            place += [f"--rdzv-conf=is_host={'false' if number else 'true'}"]
            command = [*TORCHRUN, *place, "--nproc-per-node", "2", *train]
        else:
            variables |= {"MASTER_ADDR": nodes[0].address, "MASTER_PORT": port, "NODE_RANK": str(number)}
            command = [sys.executable, *train, "--devices", "2", "--nodes", "2"]
        started.append(start([*node.prefix, *command], folder, **variables))
    outputs = [process.communicate() for process in started]
    assert [process.returncode for process in started] == [0, 0], outputs
    check_run(folder, "".join(printed for printed, _ in outputs), devices=2, nodes=2)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "detrkit"])
def test_two_nodes_over_the_loopback(digits_folder: Path, tmp_path: Path, launcher: str) -> None:
    check_two_nodes([Node("127.0.0.1"), Node("127.0.0.1")], launcher, digits_folder, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "detrkit"])
def test_two_nodes_with_networks_of_their_own(
    machines: list[Node], digits_folder: Path, tmp_path: Path, launcher: str
) -> None:
    check_two_nodes(machines, launcher, digits_folder, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["started", "starting"])
def test_one_of_the_processes_is_killed(digits_folder: Path, tmp_path: Path, which: str) -> None:
    """The other one ends with a sentence and an exit code, whichever of the two it is."""
    command = [sys.executable, *TRAIN, "--data", str(digits_folder), "--epochs", "10000", "--devices", "2"]
    process = start(command, tmp_path)
    while not (tmp_path / "run" / "resume.ckpt").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.2)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[0]) if which == "started" else process.pid, signal.SIGKILL)
    _, said = process.communicate()
    assert process.returncode == (2 if which == "started" else -signal.SIGKILL)
    sentence = (
        "detrkit: One of the 2 processes ended, so training cannot go on: its own message says why; continue, also with another number of "
        "processes, with: detrkit train --resume run"
    )
    assert [line for line in said.splitlines() if line.startswith("detrkit: ")] == [sentence]


REPORT_TAKES_LONG = """
import sys, time
import detrkit.training.launching as launching
import detrkit.training.run as run

launching._PATIENCE = 0.5
run.write_without_evaluation = lambda *_: time.sleep(4.0)
if __name__ == "__main__":
    sys.argv = ["detrkit", *sys.argv[1:]]
    from detrkit.__main__ import main

    main()
"""


@pytest.mark.slow
def test_the_first_process_has_time_for_its_report_after_ctrl_c(digits_folder: Path, tmp_path: Path) -> None:
    """Although the others have ended long before, and with an exit code other than 0."""
    (tmp_path / "script.py").write_text(REPORT_TAKES_LONG)
    options = [*TRAIN[2:], "--data", str(digits_folder), "--epochs", "10000", "--devices", "2"]
    process = start([sys.executable, "script.py", *options], tmp_path, start_new_session=True)
    while not (tmp_path / "run" / "log.csv").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    printed, said = process.communicate()
    assert process.returncode == 130, said
    assert said == ""
    assert printed.splitlines()[-1].startswith("Report so far: ")


@pytest.mark.slow
def test_one_process_in_an_allocation_of_slurm_for_two(digits_folder: Path, tmp_path: Path) -> None:
    numbers = {"SLURM_NTASKS": "2", "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "0"}
    process = start([sys.executable, *TRAIN, "--data", str(digits_folder), "--steps", "1"], tmp_path, **numbers)
    _, said = process.communicate()
    assert process.returncode == 0, said
    assert (tmp_path / "run" / "best.safetensors").is_file()
    assert "Traceback" not in said
