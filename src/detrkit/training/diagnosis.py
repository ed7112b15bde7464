"""Says what goes wrong in training while it can be mended, with the remedy: each problem once, and in one sentence."""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from detrkit.checkpoints.own_format import write_pickled
from detrkit.data import DetectionDataset
from detrkit.data.wording import counted
from detrkit.errors import OutputError
from detrkit.evaluation.runner import eval_mode
from detrkit.layers.processes import process_count
from detrkit.measures import MATCHED_CLASS_ACCURACY
from detrkit.models.detector import Detector
from detrkit.structures import ImageBatch, Output, Target
from detrkit.training.learning import Learning, LearningWindow
from detrkit.training.module import NonFiniteStepError, TrainingModule
from detrkit.training.options import fitting_warmup
from detrkit.training.sharding import local

_WINDOW = 50  # steps between two looks, and of the means that are looked at
_MUCH_HIGHER = 1.3  # a loss that many times that of the beginning is no chance
_ENOUGH = 10  # looks after which something should have been learned
_SAME_ACCURACY = 0.03
_SAME_BOX, _SAME_SCORE = 0.005, 0.01  # of the image, and of a score: less is no difference between images


class Diagnosis(Callback):
    """Looks at losses and predictions every now and then.

    Args:
        say: prints a sentence.
        folder: the run's, for what a loss that is not finite leaves behind.
        rank: of this process.
        window: steps between two looks.
    """

    def __init__(self, say: Callable[[str], None], folder: Path, *, rank: int = 0, window: int = _WINDOW) -> None:
        self._say, self._folder, self._rank, self._size = say, folder, rank, window
        self._pieces = 1  # of each batch
        self._window = LearningWindow(window)
        self._course: list[Learning] = []  # the first look and the last two, which are all that is compared
        self._looks = 0
        self._beginning: list[Tensor] = []  # losses of the first steps
        self._batch: tuple[ImageBatch, list[Target]] | None = None
        self._before: ImageBatch | None = None  # the images of the batch before it
        self._step = 0
        self._said: set[str] = set()

    def on_train_start(self, trainer: Trainer, pl_module: TrainingModule) -> None:  # type: ignore[override]
        """Begins to count."""
        self._step, self._pieces = trainer.global_step, pl_module.schedule.accumulate
        self._window = LearningWindow(self._size * self._pieces)

    def on_train_batch_start(self, _: Trainer, __: Any, batch: tuple[ImageBatch, list[Target]], *___: object) -> None:
        """Remembers the batch, and the one before it: what goes through the model at once may be a single image."""
        self._before = None if self._batch is None else self._batch[0]
        self._batch = batch

    def on_train_batch_end(self, trainer: Trainer, pl_module: TrainingModule, *_: object) -> None:  # type: ignore[override]
        """Looks, if it is time to."""
        assert pl_module.losses is not None
        self._window.add(pl_module.losses)
        if len(self._beginning) < max(1, self._size // 5) * self._pieces:
            self._beginning.append(pl_module.losses.total.detach())
        if trainer.global_step == self._step:
            return  # only a piece of a batch
        self._step = trainer.global_step
        is_warm = self._step > fitting_warmup(pl_module.options, pl_module.recipe, pl_module.schedule.steps)
        if is_warm and self._step % self._size == 0 and len(self._window) == self._size * self._pieces:
            self._course = [*self._course[:1], *self._course[1:][-1:], self._window.learning()]
            self._looks += 1
            self._look(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: TrainingModule, exception: BaseException) -> None:  # type: ignore[override]
        """Keeps what a loss that is not finite came from, and says where it began."""
        if not isinstance(exception, NonFiniteStepError) or self._batch is None:
            return
        file = remains_file(self._folder, self._rank)
        images, targets = self._batch
        kept = {
            "step": pl_module.global_step + 1,
            "message": str(exception),
            "weights": {name: local(value).cpu().clone() for name, value in pl_module.model.state_dict().items()},
            "pixels": images.pixels.cpu(),
            "padding": None if images.padding is None else images.padding.cpu(),
            "image_ids": images.image_ids,
            "targets": [{"labels": each.labels.cpu(), "boxes_cxcywh": each.boxes_cxcywh.cpu()} for each in targets],
            "optimizer": local(trainer.optimizers[0].state_dict()),
        }
        where = first_not_finite(pl_module.model, images, targets, runs=not pl_module.is_shared_out)
        kept["first"] = where
        try:
            write_pickled(file, kept)
            words = _remains_in_words(where, file)
        except OutputError as problem:
            words = f"Not finite first: {where}. The batch, the weights and the optimizer's state are not kept, since {problem}."
        self._say(words)
        if self._rank:  # whose console is silent: the error itself says it, and the first process if it can
            exception.args = (f"{exception}. {words}",)

    def state_dict(self) -> dict[str, Any]:
        """What a run that goes on needs for its next look: what was seen and said."""
        course = [{**dataclasses.asdict(each), "percentages": sorted(each.percentages)} for each in self._course]
        beginning = [loss.item() for loss in self._beginning]
        return {"course": course, "looks": self._looks, "beginning": beginning, "said": sorted(self._said)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where `state_dict` was taken, but for the window since the last look."""
        self._course = [
            Learning(each["total"], each["means"], frozenset(each["percentages"])) for each in state_dict["course"]
        ]
        self._looks = state_dict["looks"]
        self._beginning = [torch.tensor(loss) for loss in state_dict["beginning"]]
        self._said = set(state_dict["said"])

    def _look(self, module: TrainingModule) -> None:
        options, batch_size = module.options, module.schedule.batch_size
        beginning = min(statistics.fmean(loss.item() for loss in self._beginning), self._course[0].total)
        self._warn("rate", too_high(beginning, self._course, lr=options.lr or 0.0, batch_size=batch_size))
        if self._looks >= _ENOUGH:
            self._warn("accuracy", flat_accuracy(self._course, chance_of(module.data.dataset)))
        runs = not module.is_shared_out  # otherwise only all processes together could look
        if runs and self._looks % _ENOUGH == 0 and "same" not in self._said and self._batch is not None:
            self._warn("same", same_predictions(module.model, _of_different_images(self._before, self._batch[0])))

    def _warn(self, name: str, problem: str | None) -> None:
        if problem is not None and name not in self._said:
            self._said.add(name)
            self._say(f"Warning: {problem}")


def remains_file(folder: Path, rank: int) -> Path:
    """What a loss that is not finite leaves behind in a process: batch, weights and the optimizer's state.

    Args:
        folder: of the run.
        rank: of the process.
    """
    return folder / ("not_finite.pt" if rank == 0 else f"not_finite_process{rank}.pt")


def _remains_in_words(where: str, file: Path) -> str:
    return f"Not finite first: {where}. The batch, the weights and the optimizer's state are in {file}."


class Remains:
    """Finds out whether another process of a run ended since its loss was not finite.

    Args:
        folder: of the run; what other processes left there before is not meant.
        count: of processes.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self._files = [remains_file(folder, rank) for rank in range(1, count)]
        self._before = [_written_at(file) for file in self._files]

    def in_words(self) -> str | None:
        """What such a process would have said; None where there is none."""
        for file, before in zip(self._files, self._before, strict=True):
            if _written_at(file) not in (None, before):
                kept = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
                return f"{kept['message']}. {_remains_in_words(kept['first'], file)}"
        return None


def _written_at(file: Path) -> int | None:
    return file.stat().st_mtime_ns if file.is_file() else None


def too_high(beginning: float, course: Sequence[Learning], *, lr: float, batch_size: int) -> str | None:
    """What to do about a learning rate that is too high for the batch: the loss is, twice in a row, far above that of the beginning.

    Args:
        beginning: the loss before anything was learned.
        course: means over windows of steps, from the end of the warm-up on.
        lr: learning rate.
        batch_size: images of a batch.
    """
    if len(course) < 2 or min(each.total for each in course[-2:]) <= _MUCH_HIGHER * beginning:
        return None
    return (
        f"the loss has risen from {beginning:.3g} to {course[-1].total:.3g}, so the learning rate {lr:g} is too high for batches of "
        f"{counted(batch_size, 'image')}: stop, and train anew with --lr {lr / 5:.1g} or larger batches"
    )


def chance_of(dataset: DetectionDataset) -> float:
    """The accuracy of always naming the class with most objects; 1 where there is only one class."""
    counts = np.bincount(dataset.labels[~dataset.crowd])
    return float(counts.max() / counts.sum()) if counts.sum() else 1.0


def flat_accuracy(course: Sequence[Learning], chance: float) -> str | None:
    """What to do about classes that are not learned: after many steps they are told no better than at the beginning, or by chance.

    Args:
        course: means over windows of steps: of the first one, and of the last two.
        chance: the accuracy of always naming the class with most objects.
    """
    values = [each.means.get(MATCHED_CLASS_ACCURACY.name) for each in course]
    if len(values) < 3 or values[0] is None or values[-1] is None or values[-2] is None:
        return None
    latest = max(values[-1], values[-2])
    if latest > chance + _SAME_ACCURACY or latest > values[0] + _SAME_ACCURACY or chance > 1 - 2 * _SAME_ACCURACY:
        return None
    return (
        f"the {MATCHED_CLASS_ACCURACY.name} stays at {values[-1]:.0%}, and always naming the most frequent class would give {chance:.0%}: check "
        "with detrkit inspect that the labels are right, and begin with pretrained weights (--weights), or give it many more epochs"
    )


def _of_different_images(before: ImageBatch | None, now: ImageBatch) -> list[ImageBatch]:
    """Both batches; the later one alone where an image is in both, as where there is but one."""
    if before is None or before.image_ids is None or now.image_ids is None:
        return [now]
    return [now] if set(before.image_ids.tolist()) & set(now.image_ids.tolist()) else [before, now]


def same_predictions(model: Detector, batches: Sequence[ImageBatch]) -> str | None:
    """What to do about a model that does not look at its images: boxes and scores are the same for all of them.

    Args:
        model: in any mode, which it keeps.
        batches: two or more different images in all; of a single one nothing can be said.
    """
    if sum(len(images.pixels) for images in batches) < 2:
        return None
    with eval_mode(model), torch.no_grad():
        outputs: list[Output] = [model(images) for images in batches]
    count = min(output.logits.shape[2] for output in outputs)  # small images may have fewer proposals
    boxes = torch.cat([output.boxes_cxcywh[-1, :, :count].float() for output in outputs])
    scores = torch.cat([output.logits[-1, :, :count].float().sigmoid() for output in outputs])
    if _spread(boxes) > _SAME_BOX or _spread(scores) > _SAME_SCORE:
        return None
    return (
        "the predictions are still the same for all images: a DETR from random weights takes thousands of steps until it looks at them; "
        "otherwise lower the learning rate (--lr), or begin with pretrained weights (--weights)"
    )


def _spread(values: Tensor) -> float:
    """The largest difference between images, in (B, ...) values."""
    return float((values.amax(0) - values.amin(0)).max())


def first_not_finite(model: Detector, images: ImageBatch, targets: Sequence[Target], *, runs: bool = True) -> str:
    """The first tensor that is not finite, of the batch, the weights, or what the model's parts return in their order.

    Args:
        model: in training mode.
        images: the batch.
        targets: its objects.
        runs: False leaves the model alone, whose other parts are in other processes.
    """
    if not images.pixels.isfinite().all():
        return "the pixels of the batch"
    if not all(target.boxes_cxcywh.isfinite().all() for target in targets):
        return "the boxes of the batch"
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not local(value).isfinite().all():
            return f"the weights {name}"
    if not runs:
        return "the output of a part of the model, or the loss itself"
    found: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def check(_: nn.Module, __: Any, result: Any) -> None:
            if not found and not all(tensor.isfinite().all() for tensor in _tensors(result)):
                found.append(name)

        return check

    handles = [module.register_forward_hook(watch(name)) for name, module in model.named_modules() if name]
    # In training mode parts of a model may talk to other processes, which do not expect it.
    mode = eval_mode(model) if process_count() > 1 else contextlib.nullcontext()
    try:
        with mode, torch.no_grad():
            model(images, targets)
    finally:
        for handle in handles:
            handle.remove()
    return f"the output of {found[0]}" if found else "the loss itself"


def _tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor of floats in nested values. Scores of -inf stand for what is masked out and are no problem."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value.masked_fill(value == -torch.inf, 0.0)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _tensors(getattr(value, field.name))
