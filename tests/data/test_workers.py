"""Worker processes: they begin clean, share the data set's arrays, and end a run with a sentence when the system ends them."""

from __future__ import annotations

import importlib
import io
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from multiprocessing.context import set_spawning_popen
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import detrkit
from detrkit.cards import Preprocessing
from detrkit.data import (
    ArrayImages,
    Augmentation,
    DetectionDataset,
    EvaluationData,
    EvaluationTransform,
    ImageFiles,
    TrainingData,
    TrainingTransform,
    collate,
    read_digits,
)
from detrkit.data.workers import BatchLoader, for_workers
from detrkit.errors import DataError, DetrkitError, WorkerError
from detrkit.structures import ImageBatch


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports a module that workers can import, too."""

    def write_and_import(text: str) -> ModuleType:
        name = f"own_{tmp_path.name}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        monkeypatch.syspath_prepend(tmp_path)
        return importlib.import_module(name)

    return write_and_import


def run_script(folder: Path, text: str) -> str:
    """What a script prints that a user might write; it must not fail or warn."""
    (folder / "script.py").write_text(textwrap.dedent(text))
    result = subprocess.run([sys.executable, "script.py"], cwd=folder, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def loader(dataset: DetectionDataset, workers: int, **options: Any) -> BatchLoader:
    data = for_workers(EvaluationData(dataset, EvaluationTransform(Preprocessing(64, 64))), workers)
    collate_fn = partial(collate, smallest_side=1)
    return BatchLoader(data, workers=workers, **{"collate_fn": collate_fn, "batch_size": 2, **options})


def pixels(batches: BatchLoader) -> list[torch.Tensor]:
    return [batch.pixels.clone() for batch, _ in batches]


def with_images(kind: type[ArrayImages], images: int = 8) -> DetectionDataset:
    dataset = read_digits("train", images=images, size=64)
    return replace(dataset, images=kind(np.stack([np.asarray(dataset.image(index)) for index in range(images)])))


def training_data(images: int = 6) -> TrainingData:
    dataset = read_digits("train", images=images, size=64)
    return TrainingData(dataset, TrainingTransform(Augmentation.for_sizes(64, 64), Preprocessing(64, 64)), seed=3)


def epoch_batches(data: TrainingData, epochs: int, workers: int) -> list[tuple[torch.Tensor, list[list[float]]]]:
    prepared = for_workers(data, workers)
    loader = BatchLoader(prepared, workers=workers, collate_fn=partial(collate, smallest_side=64), batch_size=2)
    seen = []
    for epoch in range(epochs):
        data.set_epoch(epoch)
        seen += [
            (batch.pixels.clone(), [target.boxes_cxcywh.flatten().tolist() for target in targets])
            for batch, targets in loader
        ]
    return seen


def test_workers_see_the_same_pixels_boxes_and_epochs() -> None:
    alone, shared_out = epoch_batches(training_data(), 2, 0), epoch_batches(training_data(), 2, 2)
    assert len(alone) == len(shared_out) == 6
    assert not torch.equal(alone[0][0], alone[3][0])  # the epoch counts
    for (values, boxes), (other_values, other_boxes) in zip(alone, shared_out, strict=True):
        assert torch.equal(values, other_values)
        assert boxes == other_boxes


def test_workers_keep_the_digits_that_they_draw() -> None:
    """An epoch's workers find what those of earlier epochs have drawn: it lies in memory that all of them see."""
    dataset = read_digits("train", images=4, size=64)
    batches = loader(dataset, 2)
    first = pixels(batches)
    shared = batches.dataset._shared.load().images
    assert shared.drawn.all()
    assert not dataset.images.drawn.any()  # nothing was drawn in this process
    shared.pixels[:] = 0
    again = pixels(batches)
    black = EvaluationTransform(Preprocessing(64, 64))(Image.new("RGB", (64, 64)))
    assert all(torch.equal(image, black) for batch in again for image in batch)
    assert not any(torch.equal(image, black) for batch in first for image in batch)


def many_objects(images: int, each: int) -> DetectionDataset:
    """Synthetic objects; the ids of the images are texts, as in some files."""
    small, rows = read_digits("train", images=1, size=64), images * each
    return replace(
        small,
        images=small.images.subset(np.zeros(images, np.int64)),
        image_ids=np.arange(images),
        sizes=np.full((images, 2), 64),
        offsets=np.arange(images + 1) * each,
        boxes_xyxy=np.tile([1.0, 1, 9, 9], (rows, 1)),
        labels=np.zeros(rows, np.int64),
        crowd=np.zeros(rows, bool),
        areas=np.full(rows, 64.0),
        annotation_ids=np.arange(rows),
        file_image_ids=np.array([f"image {number}" for number in range(images)], dtype=object),
        notes=tuple(f"note {number}" for number in range(images)),
    )


def sent_to_a_worker(data: object) -> bytes:
    """What is pickled for a new process."""

    class Receiver:  # stands in for the process; descriptors of files are handed over beside the pickle
        def duplicate_for_child(self, descriptor: int) -> int:
            return descriptor

        def DupFd(self, descriptor: int) -> int:  # noqa: N802 - multiprocessing calls it so
            return descriptor

    set_spawning_popen(Receiver())
    try:
        stream = io.BytesIO()
        ForkingPickler(stream).dump(data)
        return stream.getvalue()
    finally:
        set_spawning_popen(None)


def test_what_is_sent_to_a_worker_does_not_grow_with_the_annotations() -> None:
    few, many = (len(sent_to_a_worker(loader(many_objects(images, 20), 1).dataset)) for images in (10, 1_000))
    assert many < few + 100  # a few more digits
    assert few < 4_000


@pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="the system does not say what memory processes share"
)
def test_a_workers_memory_grows_neither_with_annotations_nor_with_epochs(
    own_module: Callable[[str], ModuleType],
) -> None:
    """A worker's own memory (KB, shared with no other process), at its highest in each of three epochs."""
    own = own_module("""
        from pathlib import Path

        def private(samples):
            lines = [line.split() for line in Path("/proc/self/smaps_rollup").read_text().splitlines()]
            return sum(int(line[1]) for line in lines if line[0] in ("Private_Clean:", "Private_Dirty:"))
    """)

    def measured(images: int, each: int) -> list[int]:
        order = list(range(0, images, images // 100))
        batches = loader(many_objects(images, each), 2, collate_fn=own.private, sampler=order, batch_size=4)
        return [max(batches) for _ in range(3)]

    few, many = measured(100, 10), measured(4_000, 100)
    # Arrays and pixels of the larger one take 72 MB, objects in Python more. A worker's own memory varies by 1 MB or so.
    assert max(few + many) - min(few + many) < 10_000, (few, many)


def test_what_threads_of_the_main_process_do_does_not_stop_workers(own_module: Callable[[str], ModuleType]) -> None:
    """A forked worker would wait for the lock for ever, since the thread that holds it does not exist there."""
    own = own_module("""
        import threading
        from detrkit.data import ArrayImages

        LOCK = threading.Lock()

        class LockedImages(ArrayImages):
            def open(self, index):
                with LOCK:
                    return super().open(index)
    """)
    dataset, stop, held = with_images(own.LockedImages), threading.Event(), threading.Event()
    expected = pixels(loader(dataset, 0))

    def hold() -> None:
        with own.LOCK:
            held.set()
            stop.wait()

    def resize() -> None:
        picture = Image.new("RGB", (64, 64))
        while not stop.is_set():
            picture.resize((200, 200))

    threads = [threading.Thread(target=work, daemon=True) for work in (hold, resize, resize)]
    threads_before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)  # those of OpenMP and of numba's kernel, if there is numba
        torch.randn(500, 500).matmul(torch.randn(500, 500)).exp().sum()
        detrkit.build("deformable-detr-compact").eval()(ImageBatch(torch.randn(1, 3, 64, 64)))
        for thread in threads:
            thread.start()
        held.wait()
        found = pixels(loader(dataset, 2))
    finally:
        stop.set()
        torch.set_num_threads(threads_before)
    assert len(found) == len(expected) == 4
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_a_worker_that_the_system_ends_is_said_in_a_sentence(own_module: Callable[[str], ModuleType]) -> None:
    own = own_module("""
        import os
        import signal
        from detrkit.data import ArrayImages

        class Deadly(ArrayImages):
            def open(self, index):
                if index == 5:
                    os.kill(os.getpid(), signal.SIGKILL)
                return super().open(index)
    """)
    with pytest.raises(WorkerError) as caught:
        pixels(loader(with_images(own.Deadly), 2))
    assert str(caught.value) == (
        "A process that reads images was ended by the system, most likely for lack of memory: use fewer workers than 2 (--workers); "
        "0 reads images in the main process."
    )


def test_an_image_that_cannot_be_read_is_named_by_a_worker_too() -> None:
    files = ImageFiles(Path("pictures"), np.array(["a.png", "b.png"]), np.zeros(2, bool))
    with pytest.raises(DataError) as caught:
        pixels(loader(replace(read_digits("train", images=2, size=64), images=files), 1))
    name = Path("pictures", "a.png")
    assert str(caught.value) == f"{name} does not exist: correct its name or put the file there."


def test_other_errors_of_workers_stay_as_they_are(own_module: Callable[[str], ModuleType]) -> None:
    own = own_module("""
        from detrkit.data import ArrayImages

        class Broken(ArrayImages):
            def open(self, index):
                raise RuntimeError("a bug")
    """)
    with pytest.raises(RuntimeError, match="a bug") as caught:
        pixels(loader(with_images(own.Broken), 1))
    assert not isinstance(caught.value, DetrkitError)


BEGINNING = """
from dataclasses import replace
from functools import partial
import numpy as np
from detrkit.cards import Preprocessing
from detrkit.data import ArrayImages, EvaluationData, EvaluationTransform, collate, read_digits
from detrkit.data.workers import BatchLoader, for_workers

def total(dataset, workers):
    data = for_workers(EvaluationData(dataset, EvaluationTransform(Preprocessing(64, 64))), workers)
    batches = BatchLoader(data, workers=workers, collate_fn=partial(collate, smallest_side=1), batch_size=2)
    return sum(float(batch.pixels.double().sum()) for batch, _ in batches)
"""


def test_a_script_without_a_guard_runs_once(tmp_path: Path) -> None:
    script = """
print("begun", flush=True)
dataset = read_digits("train", images=8, size=64)
print(total(dataset, 2) == total(dataset, 0))
"""
    assert run_script(tmp_path, BEGINNING + script) == "begun\nTrue\n"


def test_images_of_a_class_that_the_script_defines(tmp_path: Path) -> None:
    script = """
class Negative(ArrayImages):
    def open(self, index):
        return super().open(index).point(lambda value: 255 - value)

if __name__ == "__main__":
    dataset = read_digits("train", images=8, size=64)
    pixels = np.stack([np.asarray(dataset.image(index)) for index in range(8)])
    negative = replace(dataset, images=Negative(pixels))
    print(total(negative, 1) == total(negative, 0) != total(dataset, 0))
"""
    assert run_script(tmp_path, BEGINNING + script) == "True\n"
