"""Which processes there are, what each gets, and what is refused; nothing is started."""

from __future__ import annotations

import itertools
import sys
import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from detrkit.errors import ConfigurationError, LostProcessError, OptionError
from detrkit.models.catalog import CATALOG
from detrkit.training import TrainingOptions, launching
from detrkit.training.batches import EpochBatches, part_of
from detrkit.training.keeping import SaveMoments
from detrkit.training.launching import check_startable, other_processes
from detrkit.training.options import resolve, worker_count
from detrkit.training.pieces import pieces
from detrkit.training.processes import (
    ALONE,
    Processes,
    check_images,
    check_processes,
    losing_no_process,
    processes_of,
    with_processes,
)

TORCHRUN = {
    "WORLD_SIZE": "4",
    "LOCAL_WORLD_SIZE": "2",
    "RANK": "3",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "a",
    "MASTER_PORT": "1",
}
SLURM = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "2", "SLURM_PROCID": "2", "SLURM_LOCALID": "0"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, ALONE),
        (TORCHRUN, Processes(4, 3, 2, 1, "torchrun")),
        ({**TORCHRUN, "DETRKIT_STARTED_BY": "1"}, Processes(4, 3, 2, 1, "detrkit")),
        (SLURM, Processes(4, 2, 2, 0, "srun")),
        ({"WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": "x"}, Processes(launcher="torchrun")),
        ({"WORLD_SIZE": "1", "SLURM_STEP_NUM_TASKS": "1", "OMPI_COMM_WORLD_SIZE": ""}, ALONE),
        ({"SLURM_NTASKS": "4"}, ALONE),  # of the allocation: a batch script without srun is one process
    ],
    ids=["nothing", "torchrun", "detrkit", "srun", "one of torchrun", "one", "allocation"],
)
def test_processes_of_an_environment(environment: dict[str, str], expected: Processes) -> None:
    assert processes_of(environment) == expected


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (
            {name: value for name, value in TORCHRUN.items() if name != "MASTER_PORT"},
            "WORLD_SIZE says that there are 4 processes, but MASTER_PORT is not set: start them with torchrun, which sets both, or unset WORLD_SIZE",
        ),
        (
            {"OMPI_COMM_WORLD_SIZE": "4"},
            "mpirun started 4 processes, which detrkit cannot join: start them with torchrun or srun",
        ),
        (
            {**TORCHRUN, "LOCAL_WORLD_SIZE": "3"},
            "there are 4 processes, 3 of them on this node: start equally many on each node",
        ),
    ],
)
def test_environments_that_are_refused(environment: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        processes_of(environment)
    assert str(caught.value) == message


def test_a_launcher_says_how_many() -> None:
    processes = processes_of(TORCHRUN)
    assert (processes.nodes, processes.is_first, processes.device("cuda"), processes.device("cpu")) == (
        2,
        False,
        "cuda:1",
        "cpu",
    )
    assert with_processes({"lr": 1.0}, processes) == {"lr": 1.0, "devices": 2, "nodes": 2}
    assert with_processes({"devices": 2}, processes) == {"devices": 2, "nodes": 2}
    assert with_processes({"devices": 3}, ALONE) == {"devices": 3}
    with pytest.raises(
        OptionError, match=r"^nodes is 3, but torchrun started 4 processes on 2 nodes: leave nodes out$"
    ):
        with_processes({"nodes": 3}, processes)
    assert with_processes({"devices": 1, "nodes": 1}, processes) == {
        "devices": 2,
        "nodes": 2,
    }  # of a configuration file


@pytest.mark.parametrize("images", [12, 13, 16])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_parts_make_up_the_batches_of_one_process(images: int, count: int) -> None:
    order = [(7 * position) % images for position in range(images)] if images % 7 else list(range(images))
    whole = list(EpochBatches(order, 5))
    parts = [EpochBatches(order, 5, Processes(count, rank, count, rank)) for rank in range(count)]
    assert (
        [list(itertools.chain(*batch)) for batch in zip(*parts, strict=True)]
        == whole
        == [order[0:5], order[5:10], order[10:15]][: images // 5]
    )
    sizes = [len(part) for part in next(iter(zip(*parts, strict=True)))]
    assert max(sizes) - min(sizes) <= 1
    parts[0].first = 1
    assert (list(parts[0]), len(parts[0])) == ([part_of(batch, 0, count) for batch in whole[1:]], len(whole))


def options(**changes: Any) -> TrainingOptions:
    return resolve(TrainingOptions("light-detr-compact", "digits", **changes))


@pytest.mark.parametrize(
    ("given", "device", "message"),
    [
        ({"devices": 2}, "mps", "2 processes cannot share the device mps: give device=cpu, or train in one process"),
        (
            {"devices": 2, "nodes": 2},
            "cuda:1",
            "device=cuda:1 is one device, and each of 4 processes needs its own: give device=cuda",
        ),
        ({"devices": 3}, "cuda", "devices is 3, but this machine has 2 CUDA devices: give at most that many"),
        (
            {"devices": 3, "batch_size": 2},
            "cpu",
            "a batch of 2 images cannot be split among 3 processes: give fewer devices, or a new run a larger batch_size",
        ),
        (
            {"devices": 3, "batch_size": 8, "accumulate": 4},
            "cpu",
            "a piece of a batch (accumulate=4) of 2 images cannot be split among 3 processes: give fewer devices, or a new run a larger batch_size or a smaller "
            "accumulate",
        ),
    ],
)
def test_what_processes_cannot_do(
    given: dict[str, int], device: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(OptionError) as caught:
        check_processes(options(**given), device)
    assert str(caught.value) == message
    check_processes(options(**given | {"devices": 1, "nodes": 1}), device)


def test_workers_follow_the_machine_and_its_processes_unless_they_were_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those of a run that goes on with more devices, or on another machine."""
    monkeypatch.setattr("detrkit.training.options.choose_device", lambda _: "cuda")
    monkeypatch.setattr("os.cpu_count", lambda: 12)
    begun = options(devices=1)
    assert begun.workers is None
    assert [worker_count(replace(begun, devices=count)) for count in (1, 2, 3, 20)] == [8, 6, 4, 1]
    assert [worker_count(options(devices=count, workers=5)) for count in (1, 3)] == [5, 5]
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert worker_count(begun) == 4
    monkeypatch.setattr("detrkit.training.options.choose_device", lambda _: "cpu")
    assert worker_count(begun) == 0


def test_too_few_images() -> None:
    check_images(3, 3)
    with pytest.raises(
        ConfigurationError, match=r"^the training split has 2 images, too few for 3 processes: train in one process$"
    ):
        check_images(2, 3)


def test_processes_share_the_memory_that_a_batch_takes() -> None:
    config = CATALOG["detr-r50"].config
    assert pieces(config, 16, 800, 1333) > pieces(config, 16, 800, 1333, processes=4)
    assert pieces(config, 4, 800, 1333, processes=4) == 1  # each has one image, however much it takes
    assert pieces(config, 4, 3000, 3000, processes=2) == 2


def test_only_what_is_about_a_lost_process_is_called_so() -> None:
    pair = Processes(2, 0, 2, 0)
    for words, kind in (("Connection closed by peer [127.0.0.1]:4", LostProcessError), ("shapes differ", RuntimeError)):
        with pytest.raises(kind) as caught, losing_no_process(pair, "go on"):
            raise RuntimeError(words)
        assert type(caught.value) is kind
    with pytest.raises(RuntimeError, match="peer"), losing_no_process(ALONE, "go on"):
        raise RuntimeError("Connection closed by peer")


def test_moments_depend_on_the_clock_of_the_first_process_alone() -> None:
    """Steps of 3 seconds, later of 1: the state is kept soon after every 30 seconds, with few looks at the clock."""
    now, looks = [0.0], [0]

    def decided(decision: tuple[bool, int]) -> tuple[bool, int]:
        looks[0] += 1
        return decision

    moments, kept = SaveMoments(30.0, decided, lambda: now[0]), []
    moments.kept(0)
    for step in range(1, 101):
        now[0] += 3.0 if step <= 20 else 1.0
        if moments.is_due(step):
            moments.kept(step)
            kept.append(now[0])
    gaps = [after - before for before, after in zip([0.0, *kept], kept, strict=False)]
    assert len(kept) == 4
    assert all(30 <= gap <= 40 for gap in gaps), kept
    assert looks[0] < 40


@pytest.mark.parametrize("is_needed", [True, False])
def test_a_process_that_ended_ends_the_first_one_only_while_it_is_needed(
    monkeypatch: pytest.MonkeyPatch, is_needed: bool
) -> None:
    """Afterwards the first one may write its report for as long as that takes."""
    ends, is_over = [], threading.Event()

    def end(code: int) -> None:
        ends.append(code)
        is_over.set()

    monkeypatch.setattr("os._exit", end)
    monkeypatch.setattr(launching, "_PATIENCE", 0.01)
    child: Any = SimpleNamespace(poll=lambda: 130, kill=lambda: ends.append(-9))
    if not is_needed:
        is_over.set()
    launching._watch([child], is_over)
    assert ends == ([-9, 2] if is_needed else [])


@pytest.fixture
def _no_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another test of this process may have left one."""
    monkeypatch.delitem(sys.modules, "IPython", raising=False)


@pytest.mark.usefixtures("_no_notebook")
def test_where_nothing_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    check_startable(["python", "-m", "detrkit"], {})
    for command in (["python"], ["python", "-"]):
        with pytest.raises(ConfigurationError, match="from a notebook or a prompt"):
            check_startable(command, {})
    with pytest.raises(ConfigurationError, match="for one run only"):
        check_startable(["python", "train.py"], {"DETRKIT_STARTED_OTHERS": "1"})
    with monkeypatch.context() as notebook:
        notebook.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=object))
        with pytest.raises(ConfigurationError, match="from a notebook or a prompt"):
            check_startable(["python", "train.py"], {})
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    with pytest.raises(ConfigurationError, match="from a notebook or a prompt"):
        check_startable(["python", "train.py"], {})


@pytest.mark.usefixtures("_no_notebook")
def test_several_nodes_need_their_numbers() -> None:
    environment = {"MASTER_ADDR": "a", "MASTER_PORT": "1"}
    with (
        pytest.raises(ConfigurationError, match=r"for 2 nodes the environment of each needs NODE_RANK"),
        other_processes(1, 2, environment),
    ):
        pass
    with (
        pytest.raises(ConfigurationError, match="NODE_RANK is 2: give a number from 0 to 1"),
        other_processes(1, 2, {**environment, "NODE_RANK": "2"}),
    ):
        pass
    with other_processes(1, 2, {**environment, "NODE_RANK": "1"}) as (processes, _):
        assert processes == Processes(2, 1, 1, 0, "detrkit")
