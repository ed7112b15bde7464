"""The memory of a run's largest step, measured before its first one; what is learned afterwards is what would be learned without it."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import nn

from detrkit.data import Augmentation, TrainingData, TrainingTransform, collate
from detrkit.data.batching import Sample
from detrkit.data.transforms import resized_size
from detrkit.data.wording import counted
from detrkit.errors import OptionError
from detrkit.layers.processes import alone
from detrkit.prediction.devices import choose_device
from detrkit.structures import ImageBatch, Target
from detrkit.training.module import TrainingModule

_OF_A_MOSAIC = 4  # images
_MOMENTS = 2  # numbers that AdamW keeps for each parameter
# Of two passes the second finds the gradients of the first, as it does in every step but a run's first one.
_PASSES = 2
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_PEAK = "5"  # written there, it sets the peak to what is resident now


@dataclasses.dataclass(frozen=True)
class LargestStep:
    """What goes through the model at once in the largest step of a run.

    Attributes:
        images: number of images.
        height: pixels, with padding.
        width: likewise.
        objects: of all images together.
    """

    images: int
    height: int
    width: int
    objects: int

    def in_words(self) -> str:
        """Without a verb."""
        return f"{counted(self.images, 'image')} of {self.height} × {self.width} pixels with {counted(self.objects, 'object')}"


def probe_memory(module: TrainingModule, console: Console) -> float:
    """Measures a run's largest step and says so; weights, statistics, random numbers and the order of the images are as before.

    Args:
        module: of a run; it is moved to its device.
        console: where it is said, first what is tried, since a system without memory may end the process.

    Returns:
        The peak in GB (10⁹ bytes): on CUDA what PyTorch has allocated, otherwise what the process has in memory.

    Raises:
        OptionError: there is not enough memory.
        DataError: an image cannot be read.
    """
    device = torch.device(module.processes.device(choose_device(module.options.device)))
    batch, targets = largest_batch(module)
    images, _, height, width = batch.pixels.shape
    step = LargestStep(images, height, width, sum(len(target.labels) for target in targets))
    console.print(f"Memory probe: the largest piece of a batch has {step.in_words()}.")
    try:
        with _unchanged(module, device), alone(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the run itself says them where they are true of its batches
            _reset_peak(device)
            _train(module, batch.to(device), [target.to(device) for target in targets])
            peak = peak_memory(device)
    except (RuntimeError, MemoryError) as problem:
        if not is_lack_of_memory(problem):
            raise
        raise OptionError(_too_large(module, step, device), *_REMEDIES) from problem
    where = f"on {device}" if device.type == "cuda" else "of the computer's memory"
    console.print(f"Memory probe: with the optimizer it takes {peak:.2f} GB {where}.")
    return peak


_REMEDIES = ("batch_size", "accumulate", "short_side", "long_side")


def _too_large(module: TrainingModule, step: LargestStep, device: torch.device) -> str:
    options = module.options
    finer = (
        "" if module.schedule.piece_size == 1 else f", or split it with a larger accumulate than {options.accumulate}"
    )
    return (
        f"the largest step, {step.in_words()}, does not fit into the memory of {device}: lower batch_size ({options.batch_size}){finer}, or lower "
        f"short_side ({options.short_side}) and long_side ({options.long_side}), the largest scale of the images"
    )


def is_lack_of_memory(problem: BaseException) -> bool:
    """Whether an error is that of an allocator, of a GPU or of the CPU."""
    if isinstance(problem, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(problem).lower()
    return isinstance(problem, RuntimeError) and any(
        words in text for words in ("out of memory", "can't allocate memory", "not enough memory")
    )


def largest_batch(module: TrainingModule) -> tuple[ImageBatch, list[Target]]:
    """The images with most objects, mixed where the run mixes images, and padded to the largest size that a batch of the run can have.

    Args:
        module: of the run.
    """
    data, policy = module.data, module.data.transform.augmentation
    images = math.ceil(module.schedule.piece_size / module.processes.count)
    crowded = data.dataset.subset(_most_crowded(data, max(images, _OF_A_MOSAIC)))
    whole = dataclasses.replace(policy, short_sides=(max(policy.short_sides),), crop=False, zoom=None)
    forms = [dataclasses.replace(whole, mosaic=0.0, copy_paste=0.0)]
    if policy.mixes and data.mixed_epochs != 0:
        always = dataclasses.replace(whole, mosaic=float(policy.mosaic > 0), copy_paste=float(policy.copy_paste > 0))
        forms.append(always)
    sources = [
        TrainingData(crowded, TrainingTransform(form, data.transform.preprocessing), data.seed) for form in forms
    ]
    samples = [_fullest([source[place % len(crowded)] for source in sources]) for place in range(images)]
    batch, targets = collate(samples, smallest_side=module.model.card.preprocessing.smallest_side)
    return _padded(batch, *largest_size(data.dataset.sizes, policy, images)), targets


def _most_crowded(data: TrainingData, count: int) -> np.ndarray:
    """Positions of the images with most objects, crowd regions not counted, which no image is trained with."""
    dataset = data.dataset
    image_of = np.repeat(np.arange(len(dataset)), np.diff(dataset.offsets))
    objects = np.bincount(image_of[~dataset.crowd], minlength=len(dataset))
    return np.argsort(-objects, kind="stable")[:count]


def _fullest(samples: list[Sample]) -> Sample:
    return max(samples, key=lambda sample: len(sample.target.labels))


def largest_size(sizes: np.ndarray, policy: Augmentation, images: int) -> tuple[int, int]:
    """The largest height and width of a batch.

    Args:
        sizes: (I, 2) height and width of the pictures.
        policy: how images vary.
        images: of the batch. One alone has its own size; several are padded to the highest and the widest.
    """
    short, possible = max(policy.short_sides), []
    for height, width in np.unique(sizes, axis=0).tolist():
        possible.append(resized_size(height, width, short, policy.long_side))
        if policy.crop:
            windows = _windows(resized_size(height, width, max(policy.crop_short_sides)), policy.crop_range)
            possible += [resized_size(*window, short, policy.long_side) for window in windows]
    if images == 1:
        return max(possible, key=math.prod)
    heights, widths = zip(*possible, strict=True)
    return max(heights), max(widths)


def _windows(size: tuple[int, int], sides: tuple[int, int]) -> list[tuple[int, int]]:
    """The lowest and the narrowest window that can be cut out of an image."""
    (height, width), (least, most) = size, sides
    return [(min(least, height), min(most, width)), (min(most, height), min(least, width))]


def _padded(batch: ImageBatch, height: int, width: int) -> ImageBatch:
    """The batch with padding up to a size; what is larger stays."""
    count, _, own_height, own_width = batch.pixels.shape
    more = (0, max(0, width - own_width), 0, max(0, height - own_height))
    if not any(more):
        return batch
    padding = batch.padding
    if padding is None:
        padding = torch.zeros(count, own_height, own_width, dtype=torch.bool)
    return dataclasses.replace(batch, pixels=F.pad(batch.pixels, more), padding=F.pad(padding, more, value=True))


def _train(module: TrainingModule, images: ImageBatch, targets: list[Target]) -> None:
    """Forward and backward passes beside all that a run holds: weights, gradients, the optimizer's numbers, an average of the weights."""
    learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
    copies = _MOMENTS + (module.options.ema is not None)
    held = [
        torch.ones_like(parameter) for _ in range(copies) for parameter in learned
    ]  # zeros would take no memory on a CPU
    half = module.options.precision == "bf16"
    for _ in range(_PASSES):
        with torch.autocast(images.pixels.device.type, torch.bfloat16, enabled=half):
            loss = module.training_step((images, targets), 0)
        if module.schedule.accumulate == 1:
            module.zero_grad()  # as Lightning does, between the two passes
        loss.backward()  # type: ignore[no-untyped-call]
        loss.item()  # waits for the device
    del held


@contextmanager
def _unchanged(module: TrainingModule, device: torch.device) -> Iterator[None]:
    """Puts the module on its device, into training mode; afterwards its buffers, modes and random numbers are what they were."""
    module.to(device)
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    modes: dict[nn.Module, bool] = {part: part.training for part in module.modules()}
    try:
        with torch.random.fork_rng([device.index or 0] if device.type == "cuda" else []):
            module.train()
            yield
    finally:
        module.zero_grad()
        module.losses = None
        with torch.no_grad():
            for name, buffer in module.named_buffers():
                buffer.copy_(buffers[name])
        for part, mode in modes.items():
            part.training = mode
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # other systems: the peak since the process began, which is no less
        _RESET.write_text(_PEAK)


def peak_memory(device: torch.device) -> float:
    """The most memory so far in GB (10⁹ bytes): on CUDA what PyTorch had allocated, otherwise what the process had in memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return _peak_elsewhere()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")) / 1e9


def _peak_elsewhere() -> float:
    """Where the system has no files of processes."""
    import resource
    import sys

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
