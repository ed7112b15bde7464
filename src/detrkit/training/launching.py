"""Starts the other processes of a node (`--devices 2`), as torchrun would: each runs the same command, with its number in its environment.

Lightning's launcher does the same, but ends the first process without a word when another one ends.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager

from lightning.fabric.plugins.environments.lightning import find_free_network_port

from detrkit.errors import ConfigurationError
from detrkit.training.processes import STARTED_BY, Processes

_STARTED_BEFORE = "DETRKIT_STARTED_OTHERS"
_PATIENCE = 20.0  # seconds in which a process may notice by itself that another one is gone
_FAREWELL = 10.0  # seconds in which processes may end after a failure


@contextmanager
def other_processes(
    devices: int, nodes: int, environment: MutableMapping[str, str]
) -> Iterator[tuple[Processes, Callable[[], None]]]:
    """Starts the other processes of this node; at the end of the block they have ended.

    Args:
        devices: processes on each node.
        nodes: number of nodes; each runs the same command with its NODE_RANK and with MASTER_ADDR and MASTER_PORT of the first one.
        environment: variables of this process, which are completed as torchrun does it.

    Yields:
        The processes as this one sees them; and what to call when this one needs the others no more. Until then, and only until then, one
        that ends with an error ends all.

    Raises:
        ConfigurationError: nothing can be started from here, or a variable is missing.
    """
    check_startable(sys.orig_argv, environment)
    node = _node(nodes, environment)
    if nodes == 1:
        environment["MASTER_ADDR"], environment["MASTER_PORT"] = "127.0.0.1", str(find_free_network_port())
    environment[_STARTED_BEFORE] = "1"
    command = [sys.executable, *sys.orig_argv[1:]]
    children = [
        subprocess.Popen(command, env=_environment(environment, rank, devices, nodes, node))
        for rank in range(1, devices)
    ]
    is_over = threading.Event()
    threading.Thread(target=_watch, args=(children, is_over), daemon=True).start()
    try:
        yield Processes(devices * nodes, node * devices, devices, 0, "detrkit"), is_over.set
    except BaseException:
        is_over.set()
        _end(children, _FAREWELL)
        raise
    is_over.set()
    _end(children, None)


def _in_a_notebook() -> bool:
    ipython = sys.modules.get("IPython")  # may be loaded without a notebook
    return ipython is not None and ipython.get_ipython() is not None


def check_startable(command: Sequence[str], environment: Mapping[str, str]) -> None:
    """Refuses to start processes where the command of this one is none that can be run again.

    Args:
        command: of this process, from the interpreter on.
        environment: its variables.

    Raises:
        ConfigurationError: it is a notebook or a prompt, or has started others before.
    """
    program = command[1:2]
    if not program or program[0] == "-" or hasattr(sys, "ps1") or _in_a_notebook():
        raise ConfigurationError(
            "several processes cannot be started from a notebook or a prompt: write a script, or use detrkit train on the command line"
        )
    if _STARTED_BEFORE in environment:
        raise ConfigurationError(
            "a script can start several processes for one run only, since each of them runs the script: start it with torchrun, or write a "
            "script for each run"
        )


def follow_starter(environment: Mapping[str, str]) -> None:
    """Lets a process that detrkit started end soon after the one that started it, however that ended."""
    if STARTED_BY not in environment:
        return
    starter = int(environment[STARTED_BY])

    def watch() -> None:
        while os.getppid() == starter:
            time.sleep(1.0)
        time.sleep(_PATIENCE)
        os._exit(2)

    threading.Thread(target=watch, daemon=True).start()


def _node(nodes: int, environment: Mapping[str, str]) -> int:
    """The number of this node, from 0 on."""
    if nodes == 1:
        return 0
    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK"):
        if name not in environment:
            raise ConfigurationError(
                f"for {nodes} nodes the environment of each needs {name} (MASTER_ADDR and MASTER_PORT of the first node, NODE_RANK from 0 on): "
                "set it, or start the run with torchrun or srun"
            )
    if not environment["NODE_RANK"].isdigit() or int(environment["NODE_RANK"]) >= nodes:
        raise ConfigurationError(f"NODE_RANK is {environment['NODE_RANK']}: give a number from 0 to {nodes - 1}")
    return int(environment["NODE_RANK"])


def _environment(own: Mapping[str, str], local_rank: int, devices: int, nodes: int, node: int) -> dict[str, str]:
    numbers = {
        "WORLD_SIZE": devices * nodes,
        "LOCAL_WORLD_SIZE": devices,
        "RANK": node * devices + local_rank,
        "LOCAL_RANK": local_rank,
        STARTED_BY: os.getpid(),
    }
    return {**own, **{name: str(number) for name, number in numbers.items()}}


def _watch(children: Sequence[subprocess.Popen[bytes]], is_over: threading.Event) -> None:
    """Ends everything if a process ended and the main one, which may wait in a kernel of the GPU, does not notice."""
    while not is_over.wait(0.5):
        if any(child.poll() for child in children):
            if is_over.wait(_PATIENCE):
                return
            print(
                "detrkit: One of the processes ended, so training cannot go on: continue with --resume.",
                file=sys.stderr,
            )
            for child in children:
                child.kill()
            os._exit(2)


def _end(children: Sequence[subprocess.Popen[bytes]], seconds: float | None) -> None:
    """Waits for processes; after some seconds ends them."""
    until = None if seconds is None else time.monotonic() + seconds
    for child in children:
        try:
            child.wait(None if until is None else max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
