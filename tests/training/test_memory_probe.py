"""The memory of the largest step: what it consists of, that trying it changes nothing, and what is said where it does not fit."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from training.small_runs import NOISY, SMALL, check_same_run, run

from detrkit.data import Augmentation
from detrkit.errors import OptionError
from detrkit.layers.processes import alone, process_count
from detrkit.training import dry_run
from detrkit.training.memory_probe import is_lack_of_memory, largest_batch, largest_size, probe_memory
from detrkit.training.module import TrainingModule
from detrkit.training.run import new_options, prepare

TESTS = Path(__file__).parents[1]


def module_of(data: Path, variant: str = "detr-compact", **options: Any) -> TrainingModule:
    return prepare(new_options(variant, data, SMALL | options), None, Console(file=io.StringIO()))[0]


@pytest.mark.parametrize(
    "options", [{}, {"augmentation": "strong", "accumulate": 2, "ema": 0.9}], ids=["plain", "mixed"]
)
def test_what_is_learned_is_the_same_bit_for_bit(options: dict[str, Any], digits_folder: Path, tmp_path: Path) -> None:
    runs = [
        run(digits_folder, tmp_path / str(probed), **NOISY | options, epochs=2, memory_probe=probed)
        for probed in (False, True)
    ]
    check_same_run(tmp_path / "False", tmp_path / "True")
    assert "Memory probe" not in runs[0][1]
    assert "Memory probe: with the optimizer it takes" in runs[1][1]


def test_nothing_is_left_of_it(digits_folder: Path) -> None:
    module = module_of(digits_folder)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    modes, numbers = [part.training for part in module.modules()], torch.random.get_rng_state()
    probe_memory(module, Console(file=io.StringIO()))
    assert torch.equal(torch.random.get_rng_state(), numbers)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert [part.training for part in module.modules()] == modes
    assert all(parameter.grad is None for parameter in module.parameters())
    assert module.losses is None


def test_the_batch_has_the_largest_scale_and_the_most_objects(digits_folder: Path) -> None:
    module = module_of(digits_folder, augmentation="detr", batch_size=3)
    dataset = module.data.dataset
    counts = sorted((len(dataset.objects(place)) for place in range(len(dataset))), reverse=True)
    batch, targets = largest_batch(module)
    assert batch.pixels.shape == (3, 3, 64, 64)
    assert [len(target.labels) for target in targets] == counts[:3]


def test_mosaics_and_pasted_objects_come_on_top_where_the_run_has_them(digits_folder: Path) -> None:
    plain, mixed = (
        module_of(digits_folder, augmentation=policy, batch_size=2, epochs=20) for policy in ("detr", "strong")
    )
    few, many = (sum(len(target.labels) for target in largest_batch(module)[1]) for module in (plain, mixed))
    assert many > 1.5 * few
    mixed.data.mixed_epochs = 0
    assert sum(len(target.labels) for target in largest_batch(mixed)[1]) == few


def test_masks_are_part_of_it(shared: Path) -> None:
    options = {"settings": {}, "short_side": 64, "long_side": 96, "batch_size": 2}
    module = module_of(shared / "data" / "coco", "detr-compact-panoptic", **options, masks="instances")
    _, targets = largest_batch(module)
    for target in targets:
        assert target.masks is not None
        assert len(target.masks) == len(target.labels) > 0


def test_sizes_of_batches() -> None:
    policy = Augmentation(short_sides=(400, 800), long_side=1333, crop=False)
    pictures = np.array([[480, 640], [640, 480], [480, 640], [500, 500]])
    assert largest_size(pictures, policy, 1) in ((800, 1066), (1066, 800))
    assert largest_size(pictures, policy, 2) == (1066, 1066)
    assert largest_size(pictures[:1], policy, 2) == (800, 1066)
    # What is cut out of a wide picture may be high: 384 of 800 pixels by 600.
    cut = Augmentation(short_sides=(800,), long_side=1333, crop=True)
    assert largest_size(pictures[:1], cut, 2) == (1250, 1250)


def test_padding_goes_up_to_the_largest_size(shared: Path) -> None:
    module = module_of(shared / "data" / "coco", batch_size=2, short_side=64, long_side=107, crop=False)
    size = largest_size(module.data.dataset.sizes, module.data.transform.augmentation, 2)
    batch, _ = largest_batch(module)
    assert tuple(batch.pixels.shape[2:]) == size
    assert batch.padding is not None
    covered = (~batch.padding).sum(dim=(1, 2))
    assert (covered <= 64 * 107).all()
    assert (batch.pixels[batch.padding[:, None].expand_as(batch.pixels)] == 0).all()


@pytest.mark.slow
def test_more_images_take_more(digits_folder: Path) -> None:
    """In a process of its own, since one that has freed much takes no more for what comes."""
    script = f"""
from pathlib import Path
from training.test_memory_probe import Console, io, module_of, probe_memory
for size, side in ((1, 64), (8, 512)):
    module = module_of(Path({str(digits_folder)!r}), batch_size=size, short_side=side, long_side=side)
    print(probe_memory(module, Console(file=io.StringIO())))
"""
    printed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=TESTS
    ).stdout
    few, many = map(float, printed.split()[-2:])
    assert 0.1 < few < many - 0.2  # the backbone alone keeps 95 bytes of each of 2 million pixels


@pytest.mark.parametrize(
    "problem",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate"
        ),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "python"],
)
def test_what_does_not_fit_ends_the_run_before_it_begins(
    problem: BaseException, digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise problem

    monkeypatch.setattr(TrainingModule, "training_step", fail)
    with pytest.raises(OptionError) as caught:
        run(digits_folder, tmp_path / "run", memory_probe=True, accumulate=2, epochs=1)
    text = str(caught.value)
    assert text.startswith("the largest step, 2 images of 64 × 64 pixels with ")
    assert text.endswith(
        "does not fit into the memory of cpu: lower batch_size (4), or split it with a larger accumulate than 2, or lower short_side (64) "
        "and long_side (64), the largest scale of the images"
    )
    assert caught.value.options == ("batch_size", "accumulate", "short_side", "long_side")
    assert not (tmp_path / "run").exists()


def test_other_errors_stay_what_they_are(digits_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("shapes do not match")

    module = module_of(digits_folder)
    monkeypatch.setattr(TrainingModule, "training_step", fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        probe_memory(module, Console(file=io.StringIO()))
    assert not is_lack_of_memory(ValueError("out of memory"))


def test_a_dry_run_probes_when_it_is_asked_to(digits_folder: Path) -> None:
    text = io.StringIO()
    dry_run("detr-compact", digits_folder, console=Console(file=text, width=200), **SMALL, memory_probe=True)
    assert text.getvalue().count("Memory probe: ") == 2


def test_a_probe_waits_for_no_other_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    assert process_count() == 3
    with alone():
        assert process_count() == 1
    assert process_count() == 3
