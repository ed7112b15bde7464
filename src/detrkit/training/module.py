"""A detector for training with Lightning: its step, data and optimizer."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.utils.data import DataLoader

from detrkit.data import Sample, TrainingData, collate
from detrkit.data.workers import for_workers
from detrkit.errors import NonFiniteError
from detrkit.losses.criterion import Criterion
from detrkit.models.catalog import find_variant
from detrkit.models.detector import Detector
from detrkit.structures import ImageBatch, Losses, Target
from detrkit.training.batches import EpochBatches, EpochLoader
from detrkit.training.epoch_images import EpochImages
from detrkit.training.optimizer import build_optimizer
from detrkit.training.options import Schedule, fitting_warmup, worker_count
from detrkit.training.processes import ALONE, Processes
from detrkit.training.schedules import rate_factor
from detrkit.training.training_options import TrainingOptions


class NonFiniteStepError(NonFiniteError):
    """A training step whose loss became NaN or infinite."""


class TrainingModule(LightningModule):
    """A detector in training.

    Args:
        model: the detector.
        criterion: its loss.
        data: the training images.
        options: the resolved options.
        schedule: the length of the run.
        processes: those that share each batch.
    """

    def __init__(
        self,
        model: Detector,
        criterion: Criterion,
        data: TrainingData,
        options: TrainingOptions,
        schedule: Schedule,
        processes: Processes = ALONE,
    ) -> None:
        super().__init__()
        self.model, self.criterion = model, criterion
        self.options, self.schedule, self.processes = options, schedule, processes
        self.recipe = find_variant(options.variant).recipe  # of what is no option: which parts learn how
        self.losses: Losses | None = None  # the last step's losses, for callbacks
        self.images = EpochImages(options, data.dataset)
        self.learn_from(data)

    def learn_from(self, data: TrainingData) -> None:
        """Takes the training images from elsewhere, of the same data set.

        Args:
            data: instead of those so far.
        """
        self.data, self._for_workers = data, for_workers(data, worker_count(self.options))

    def training_step(self, batch: tuple[ImageBatch, list[Target]], batch_index: int) -> Tensor:  # noqa: ARG002 - Lightning requires it
        """The loss of one piece of a batch.

        Raises:
            NonFiniteStepError: a value became NaN or infinite; the message names the image's file.
        """
        images, targets = batch
        output = self.model(images, targets)
        try:
            with torch.autocast(images.pixels.device.type, enabled=False):  # matching and losses stay in float32
                self.losses = self.criterion(output, targets)
        except NonFiniteError as problem:
            raise self._with_location(problem, images) from problem
        return self.losses.total

    @property
    def is_shared_out(self) -> bool:
        """Whether each process holds a part of the model."""
        return self.options.strategy == "fsdp" and self.processes.count > 1

    def configure_model(self) -> None:
        """Leaves this process its part of the model, where it is shared out; Lightning calls this before it asks for optimizers."""
        if self.is_shared_out:
            from detrkit.training.sharding import shard

            assert self.device_mesh is not None
            shard(self.model, self.device_mesh["data_parallel"])

    def configure_optimizers(self) -> Any:
        """The recipe's optimizers, and learning rates that change after every step."""
        options = self.options
        assert options.lr is not None
        assert options.backbone_lr is not None
        assert options.weight_decay is not None
        assert options.schedule is not None
        recipe = self.recipe
        optimizer = build_optimizer(
            self.model,
            lr=options.lr,
            backbone_lr=options.backbone_lr,
            weight_decay=options.weight_decay,
            slow_parts=recipe.slow_parts,
            adamw_parts=recipe.adamw_parts,
            sgd_factor=recipe.sgd_factor,
            decay_norms=recipe.decay_norms,
            layer_decay=options.layer_decay,
            rates=options.rates,
        )
        factor = rate_factor(
            options.schedule,
            steps=self.schedule.steps,
            drop_after=options.drop_after or 0.0,
            warmup_steps=fitting_warmup(options, recipe, self.schedule.steps),
            second_drop_after=recipe.second_drop_after if options.drop_after == recipe.drop_after else None,
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_start(self) -> None:
        """Sets the rates of the first step: those in a checkpoint are of the length that the run had when it was written."""
        scheduler = self.lr_schedulers()
        groups = zip(scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True)  # type: ignore[union-attr]
        for group, rate, factor in groups:
            group["lr"] = rate * factor(scheduler.last_epoch)  # type: ignore[union-attr]

    def train_dataloader(self) -> DataLoader[Sample]:
        """The images in this epoch's order; Lightning calls this in every epoch, so a resumed run sees the same order."""
        epoch, schedule = self.current_epoch, self.schedule
        self.data.set_epoch(epoch)
        in_whole_batches = self.images.order(epoch)[: schedule.steps_per_epoch * schedule.batch_size]
        return EpochLoader(
            self._for_workers,
            EpochBatches(in_whole_batches, schedule.piece_size, self.processes),
            workers=worker_count(self.options),
            collate_fn=partial(collate, smallest_side=self.model.card.preprocessing.smallest_side),
            pin_memory=self.device.type == "cuda",
        )

    def on_train_batch_start(self, batch: object, batch_index: int) -> None:  # noqa: ARG002 - Lightning requires it
        """Makes dropout and noise depend on seed, epoch, batch and process alone, so that a resumed run draws the same numbers."""
        numbers: tuple[int, ...] = (self.options.seed, self.current_epoch, batch_index)
        if not self.processes.is_first:
            numbers = (*numbers, self.processes.rank)
        torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1))

    def on_train_batch_end(self, *_: object) -> None:
        """Ends a run whose last epoch is incomplete."""
        if self.global_step >= self.schedule.steps:
            self.trainer.should_stop = True

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,  # noqa: ARG002 - Lightning requires it
    ) -> None:
        """Clips the norm over all parameters that the recipe clips. Lightning's own clipping refuses a fused optimizer in mixed precision, because of float16."""
        if gradient_clip_val:
            groups = [group for group in optimizer.param_groups if group.get("clipped", True)]
            parameters = [parameter for group in groups for parameter in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, gradient_clip_val)

    def _with_location(self, problem: NonFiniteError, images: ImageBatch) -> NonFiniteStepError:
        """The error with its step and the name of the image's file in the message."""
        where = f"step {self.global_step + 1}"
        if problem.image is not None and images.image_ids is not None:
            dataset = self.data.dataset
            positions = (dataset.image_ids == int(images.image_ids[problem.image])).nonzero()[0]
            where += f", {dataset.image_name(int(positions[0]))}"
        return NonFiniteStepError(f"{where}: {problem}", problem.image)
