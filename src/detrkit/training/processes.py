"""The processes that train together: which one this is, how they join, and what they tell each other."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from rich.console import Console

from detrkit.data.wording import counted
from detrkit.errors import ConfigurationError, DetrkitError, LostProcessError, OptionError
from detrkit.models.catalog import find_variant
from detrkit.training.training_options import TrainingOptions

_Value = TypeVar("_Value")

# Others wait while the first process compares detections or evaluates segments. A process that is gone is noticed much earlier.
_LONGEST_WAIT = timedelta(hours=2)


@dataclass(frozen=True)
class Processes:
    """The processes of a run, as one of them sees them.

    Attributes:
        count: of all nodes.
        rank: of this process, from 0 on. The first one writes files and prints.
        local_count: on this node.
        local_rank: of this process on its node.
        launcher: what started them, such as "torchrun"; empty for a process that nothing started.
    """

    count: int = 1
    rank: int = 0
    local_count: int = 1
    local_rank: int = 0
    launcher: str = ""

    @property
    def nodes(self) -> int:
        """Number of nodes, which all have the same number of processes."""
        return self.count // self.local_count

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def console(self, console: Console) -> Console:
        """A console for this process: silent unless it is the first one."""
        return console if self.is_first else Console(quiet=True, file=io.StringIO())

    def device(self, chosen: str) -> str:
        """The device of this process, given the one that was chosen for all."""
        return f"cuda:{self.local_rank}" if chosen == "cuda" and self.count > 1 else chosen

    def from_first(self, value: _Value) -> _Value:
        """What the first process has; all processes have to ask."""
        if self.count == 1:
            return value
        values = [value]
        torch.distributed.broadcast_object_list(values, src=0)
        return values[0]

    def at_first(self, value: _Value) -> list[_Value] | None:
        """What all processes have, in the order of their ranks, for the first one; None for the others. All have to call it."""
        if self.count == 1:
            return [value]
        values: list[Any] | None = [None] * self.count if self.is_first else None
        torch.distributed.gather_object(value, values, dst=0)
        return values

    def at_all(self, value: _Value) -> list[_Value]:
        """What all processes have, in the order of their ranks. All have to call it."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(values, value)
        return values


ALONE = Processes()


def processes_of(environment: Mapping[str, str]) -> Processes:
    """The processes that torchrun, srun or detrkit itself started; a process that nothing started is alone.

    Args:
        environment: variables of this process.

    Raises:
        ConfigurationError: another launcher started them, or variables are missing.
    """
    if _number(environment, "OMPI_COMM_WORLD_SIZE") > 1 and "WORLD_SIZE" not in environment:
        raise ConfigurationError(
            f"mpirun started {environment['OMPI_COMM_WORLD_SIZE']} processes, which detrkit cannot join: start them with torchrun or srun"
        )
    if _number(environment, "WORLD_SIZE") == 1 and "TORCHELASTIC_RUN_ID" in environment:
        return Processes(launcher="torchrun")
    if _number(environment, "WORLD_SIZE") > 1:
        count, names = _number(environment, "WORLD_SIZE"), ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
        missing = [name for name in names if name not in environment]
        if missing:
            raise ConfigurationError(
                f"WORLD_SIZE says that there are {count} processes, but {missing[0]} is not set: start them with torchrun, which sets "
                "both, or unset WORLD_SIZE"
            )
        local = _number(environment, "LOCAL_WORLD_SIZE") or count
        launcher = "detrkit" if STARTED_BY in environment else "torchrun"
        return _checked(Processes(count, int(environment["RANK"]), local, int(environment["LOCAL_RANK"]), launcher))
    if _number(environment, "SLURM_STEP_NUM_TASKS") > 1:
        count = _number(environment, "SLURM_STEP_NUM_TASKS")
        nodes = _number(environment, "SLURM_STEP_NUM_NODES") or 1
        rank, local_rank = int(environment["SLURM_PROCID"]), int(environment["SLURM_LOCALID"])
        return _checked(Processes(count, rank, count // nodes, local_rank, "srun"))
    return ALONE


# Set for a process that detrkit started, to the id of the one that did.
STARTED_BY = "DETRKIT_STARTED_BY"


def _checked(processes: Processes) -> Processes:
    """Refuses nodes with different numbers of processes."""
    if processes.count % processes.local_count or processes.local_rank >= processes.local_count:
        raise ConfigurationError(
            f"there are {processes.count} processes, {processes.local_count} of them on this node: start equally many on each node"
        )
    return processes


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    return int(text) if text.isdigit() else 0


def with_processes(given: Mapping[str, Any], processes: Processes) -> dict[str, Any]:
    """Options with the numbers of devices and nodes of the processes that a launcher started.

    Args:
        given: the options that a user gave.
        processes: what the environment says.

    Raises:
        ConfigurationError: a user gave other numbers.
    """
    if not processes.launcher:
        return dict(given)
    counts = {"devices": processes.local_count, "nodes": processes.nodes}
    for name, count in counts.items():
        # 1 is what configuration files have where nobody chose a number.
        if given.get(name) not in (None, 1, count) and processes.launcher != "detrkit":
            raise OptionError(
                f"{name} is {given[name]}, but {processes.launcher} started {counted(processes.count, 'process', 'processes')} on "
                f"{counted(processes.nodes, 'node')}: leave {name} out",
                name,
            )
    return {**given, **counts}


def check_processes(options: TrainingOptions, device: str) -> None:
    """Refuses devices that are not there, and batches that cannot be split.

    Args:
        options: the resolved options.
        device: the device that `options.device` stands for.

    Raises:
        ConfigurationError: there is something to refuse.
    """
    count = options.devices * options.nodes
    if options.strategy == "fsdp":
        _check_sharding(options, count)
    if count == 1:
        return
    if device == "mps":
        raise OptionError(
            f"{count} processes cannot share the device mps: give device=cpu, or train in one process", "device"
        )
    if device.startswith("cuda:"):
        raise OptionError(
            f"device={device} is one device, and each of {count} processes needs its own: give device=cuda", "device"
        )
    if device == "cuda" and options.devices > torch.cuda.device_count():
        raise OptionError(
            f"devices is {options.devices}, but this machine has {counted(torch.cuda.device_count(), 'CUDA device')}: give at most that many",
            "devices",
        )
    piece = (options.batch_size or 1) // (options.accumulate or 1)
    if piece < count:
        whole = (options.accumulate or 1) == 1
        what = "a batch" if whole else f"a piece of a batch (accumulate={options.accumulate})"
        smaller = "" if whole else " or a smaller accumulate"
        raise OptionError(
            f"{what} of {counted(piece, 'image')} cannot be split among {count} processes: give fewer devices, or a new run a larger batch_size{smaller}",
            *("accumulate", "batch_size", "devices"),
        )


def _check_sharding(options: TrainingOptions, count: int) -> None:
    """Refuses what a model that is shared out among processes cannot do."""
    if count == 1:
        raise OptionError(
            "strategy=fsdp shares a model out among several processes, and this is one: give devices, or strategy=ddp",
            *("strategy", "devices"),
        )
    for name in ("ema", "minutes", "memory_probe"):
        if getattr(options, name) not in (None, False):
            raise OptionError(f"{name} cannot be had with strategy=fsdp: leave one of them out", name, "strategy")
    if options.variant is not None and find_variant(options.variant).recipe.adamw_parts:
        raise OptionError(
            f"{options.variant} has one optimizer for some parts and another for the rest, which cannot be had with strategy=fsdp: take strategy=ddp",
            "strategy",
        )


def check_images(images: int, count: int) -> None:
    """Refuses data with fewer images than there are processes.

    Raises:
        ConfigurationError: there are too few.
    """
    if images < count:
        raise ConfigurationError(
            f"the training split has {counted(images, 'image')}, too few for {count} processes: train in one process"
        )


@contextmanager
def joined(processes: Processes) -> Iterator[None]:
    """Connects the processes inside the block.

    Raises:
        ConfigurationError: they do not find each other.
    """
    if processes.count == 1:
        yield
        return
    _find_first(processes)
    try:
        torch.distributed.init_process_group(
            _backend(), rank=processes.rank, world_size=processes.count, timeout=_LONGEST_WAIT
        )
    except (RuntimeError, ValueError) as problem:
        raise ConfigurationError(
            f"process {processes.rank} of {processes.count} cannot join the others at {os.environ.get('MASTER_ADDR')}:"
            f"{os.environ.get('MASTER_PORT')}: check that these are of the first node and reachable ({_first_line(problem)})"
        ) from problem
    try:
        yield
    except BaseException:
        if _backend() == "gloo":  # NCCL would wait for processes that are gone; the end of this one frees everything
            torch.distributed.destroy_process_group()
        raise
    torch.distributed.destroy_process_group()


def _find_first(processes: Processes) -> None:
    """Completes the environment with the address of the first process, which srun does not set."""
    if processes.launcher == "srun":
        slurm = SLURMEnvironment()
        os.environ.setdefault("MASTER_ADDR", slurm.main_address)
        os.environ.setdefault("MASTER_PORT", str(slurm.main_port))


def _backend() -> str:
    """What processes use: small things on the CPU go through gloo also where gradients go through NCCL."""
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and torch.distributed.is_nccl_available() else "gloo"


def _first_line(problem: BaseException) -> str:
    return next(iter(str(problem).splitlines()), type(problem).__name__)


class Agreement:
    """All processes begin to train together, or none does: a problem of one ends all, and is said once.

    Args:
        processes: those of the run, which have joined.
        release: is called when this process needs the others no more.
    """

    def __init__(self, processes: Processes, release: Callable[[], object] = lambda: None) -> None:
        self.processes, self.release = processes, release
        self._is_reached = False

    def meet(self) -> None:
        """Waits for the others before the agreement; all processes have to come here equally often.

        Raises:
            SystemExit: another process has a problem, and says so.
        """
        self._exchange(None)

    def reach(self) -> None:
        """Waits for the others; all processes have to come here once.

        Raises:
            SystemExit: another process has a problem, and says so.
        """
        self._tell(None)

    @contextmanager
    def until_reached(self) -> Iterator[None]:
        """Tells the others of an error inside the block, unless the agreement was reached before."""
        try:
            yield
        except DetrkitError as problem:
            if not self._is_reached:
                self._tell(problem)
            raise
        if not self._is_reached:
            self._tell(None)

    def _tell(self, problem: DetrkitError | None) -> None:
        self._is_reached = True
        self._exchange(problem)

    def _exchange(self, problem: DetrkitError | None) -> None:
        with losing_no_process(self.processes, "its own message says why"):
            have_problems = self.processes.at_all(problem is not None)
        if any(have_problems) and have_problems.index(True) != self.processes.rank:
            raise SystemExit(2) from problem  # without a word: another one says it


@contextmanager
def losing_no_process(
    processes: Processes, remedy: str, reason: Callable[[], str | None] = lambda: None
) -> Iterator[None]:
    """Turns what PyTorch raises where another process is gone into a sentence of the first process that is left.

    Args:
        processes: those of the run.
        remedy: what to do.
        reason: says why the other one ended, where that can be found out.

    Raises:
        LostProcessError: another process ended.
        SystemExit: likewise, in a process that says nothing.
    """
    try:
        yield
    except RuntimeError as problem:
        if processes.count == 1 or isinstance(problem, DetrkitError) or not _is_lost(problem):
            raise
        if not processes.is_first and not _starter_is_gone():
            raise SystemExit(2) from problem
        found = reason()
        if found is not None:
            raise LostProcessError(f"In one of the {processes.count} processes: {found}") from problem
        raise LostProcessError(
            f"One of the {processes.count} processes ended, so training cannot go on: {remedy}"
        ) from problem


def _is_lost(problem: RuntimeError) -> bool:
    words = ("Connection closed by peer", "Connection reset by peer", "gloo", "NCCL", "Broken pipe", "TCPStore")
    return isinstance(problem, torch.distributed.DistError) or any(word in str(problem) for word in words)


def _starter_is_gone() -> bool:
    """Whether the process that started this one has ended; its connections end a little earlier than itself."""
    starter = os.environ.get(STARTED_BY)
    for _ in range(20):
        if starter is None or os.getppid() != int(starter):
            break
        time.sleep(0.1)
    return starter is not None and os.getppid() != int(starter)
