"""How Lightning runs the processes of a run: a single one, or several that average their gradients."""

from __future__ import annotations

import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy, Strategy

from detrkit.training.keeping import StateFile
from detrkit.training.processes import Processes
from detrkit.training.sharding import Sharding


def trainer_options(device: str, processes: Processes, *, shares_out: bool = False) -> dict[str, Any]:
    """The options of Lightning's `Trainer` about devices and processes.

    Args:
        device: the device that was chosen for the run.
        processes: those of the run.
        shares_out: whether each holds a part of the model.
    """
    kind, _, index = device.partition(":")
    accelerator = "gpu" if kind == "cuda" else kind
    if processes.count == 1:  # whatever a cluster's environment variables say
        devices = [int(index)] if index else 1
        return {"accelerator": accelerator, "devices": devices, "plugins": [LightningEnvironment(), StateFile()]}
    if shares_out:
        strategy: Strategy = Sharding(processes.count)
    else:
        # Each parameter has a gradient in each step, also in that of a process without any object.
        strategy = DDPStrategy(find_unused_parameters=False, gradient_as_bucket_view=True)
    return {
        "accelerator": accelerator,
        "devices": processes.local_count,
        "num_nodes": processes.nodes,
        "strategy": strategy,
        "plugins": [JoinedEnvironment(processes), StateFile()],
    }


class JoinedEnvironment(ClusterEnvironment):
    """Tells Lightning of processes that run and have joined already."""

    def __init__(self, processes: Processes) -> None:
        super().__init__()
        self._processes = processes

    @property
    def creates_processes_externally(self) -> bool:
        """Nothing is left to start."""
        return True

    @property
    def main_address(self) -> str:
        """Of the first process."""
        return os.environ["MASTER_ADDR"]

    @property
    def main_port(self) -> int:
        """Of the first process."""
        return int(os.environ["MASTER_PORT"])

    @staticmethod
    def detect() -> bool:
        """Never chosen by itself."""
        return False

    def world_size(self) -> int:
        """Number of processes."""
        return self._processes.count

    def set_world_size(self, size: int) -> None:
        """It is known."""

    def global_rank(self) -> int:
        """Number of this process."""
        return self._processes.rank

    def set_global_rank(self, rank: int) -> None:
        """It is known."""

    def local_rank(self) -> int:
        """Number of this process on its node."""
        return self._processes.local_rank

    def node_rank(self) -> int:
        """Number of this node."""
        return self._processes.rank // self._processes.local_count


class EndAtOnce(Callback):
    """Lets SIGTERM end one of several processes at once: Lightning would first talk to the others, which may be gone."""

    def on_train_start(self, *_: object) -> None:
        """Takes the place of the handler that Lightning has set; Lightning restores the earlier one."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, _end)


def _end(*_: object) -> NoReturn:
    raise SystemExit(128 + signal.SIGTERM)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silences Lightning's messages that duplicate detrkit's own or do not apply; restores everything afterwards."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    interrupt = signal.getsignal(signal.SIGINT) if threading.current_thread() is threading.main_thread() else None
    of_threads = threading.excepthook
    threading.excepthook = lambda problem: None if _is_of_curves(problem) else of_threads(problem)
    try:
        with warnings.catch_warnings():
            for message in (
                ".*does not have many workers.*",
                ".*number of training batches.*",
                ".*module\\(s\\) in eval mode.*",  # a frozen detector
                ".*`isinstance\\(treespec.*",
            ):
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        threading.excepthook = of_threads
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if interrupt is not None:  # after Ctrl-C Lightning ignores the signal for the rest of the process
            signal.signal(signal.SIGINT, interrupt)


def _is_of_curves(problem: threading.ExceptHookArgs) -> bool:
    """Whether TensorBoard's thread could not write, which `Curves` gets to know as well."""
    return isinstance(problem.exc_value, OSError) and type(problem.thread).__module__.startswith("tensorboard.")
