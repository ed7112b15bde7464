"""What Lightning needs to know about a detector: its step, its data, its optimizer."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.utils.data import DataLoader

from detrkit.data import EpochSampler, Sample, TrainingData, collate
from detrkit.errors import NonFiniteError
from detrkit.losses.criterion import SetCriterion
from detrkit.models.catalog import find_variant
from detrkit.models.detector import Detector
from detrkit.structures import ImageBatch, Losses, Target
from detrkit.training.optimizer import build_optimizer
from detrkit.training.options import Schedule, TrainingOptions
from detrkit.training.schedules import rate_factor


class TrainingModule(LightningModule):
    """A detector in training.

    Args:
        model: the detector.
        criterion: its loss.
        data: the training images.
        options: resolved.
        schedule: how long the run lasts.
    """

    def __init__(
        self, model: Detector, criterion: SetCriterion, data: TrainingData, options: TrainingOptions, schedule: Schedule
    ) -> None:
        super().__init__()
        self.model, self.criterion = model, criterion
        self.data, self.options, self.schedule = data, options, schedule
        self.losses: Losses | None = None  # of the last step, for whoever watches

    def training_step(self, batch: tuple[ImageBatch, list[Target]], batch_index: int) -> Tensor:  # noqa: ARG002 - Lightning's
        """The loss of one piece of a batch.

        Raises:
            NonFiniteError: something became NaN or infinite; the message names the image's file.
        """
        images, targets = batch
        output = self.model(images, targets)
        try:
            with torch.autocast(images.pixels.device.type, enabled=False):  # matching and losses stay in float32
                self.losses = self.criterion(output, targets)
        except NonFiniteError as problem:
            raise self._named(problem, images) from problem
        return self.losses.total

    def configure_optimizers(self) -> Any:
        """AdamW, and a learning rate that changes with every step."""
        options = self.options
        assert options.lr is not None
        assert options.backbone_lr is not None
        assert options.weight_decay is not None
        assert options.schedule is not None
        optimizer = build_optimizer(
            self.model,
            lr=options.lr,
            backbone_lr=options.backbone_lr,
            weight_decay=options.weight_decay,
            slow_parts=find_variant(options.variant).recipe.slow_parts,
        )
        factor = rate_factor(
            options.schedule,
            steps=self.schedule.steps,
            drop_after=options.drop_after or 0.0,
            warmup_steps=options.warmup_steps or 0,
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def train_dataloader(self) -> DataLoader[Sample]:
        """The images in this epoch's order; Lightning asks anew for every epoch, so a resumed run meets the same ones."""
        epoch = self.current_epoch
        self.data.set_epoch(epoch)
        sampler = EpochSampler(
            len(self.data), self.options.seed, rank=self.trainer.global_rank, world_size=self.trainer.world_size
        )
        sampler.set_epoch(epoch)
        return DataLoader(
            self.data,
            batch_size=self.schedule.piece_size,
            sampler=sampler,
            num_workers=self.options.workers or 0,
            collate_fn=collate,
            drop_last=True,
            pin_memory=self.device.type == "cuda",
        )

    def on_train_batch_start(self, batch: object, batch_index: int) -> None:  # noqa: ARG002 - Lightning's
        """Dropout and noise depend on seed, epoch and batch alone, so that a resumed run draws what an uninterrupted one would have."""
        numbers = (self.options.seed, self.current_epoch, batch_index, self.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1))

    def on_train_batch_end(self, *_: object) -> None:
        """Ends a run whose last epoch is cut short."""
        if self.global_step >= self.schedule.steps:
            self.trainer.should_stop = True

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,  # noqa: ARG002 - Lightning's
    ) -> None:
        """Clips the norm over all parameters. Lightning's own way refuses a fused optimizer in mixed precision, for float16's sake."""
        if gradient_clip_val:
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, gradient_clip_val)

    def _named(self, problem: NonFiniteError, images: ImageBatch) -> NonFiniteError:
        where = f"step {self.global_step + 1}"
        if problem.image is not None and images.image_ids is not None:
            dataset = self.data.dataset
            found = (dataset.image_ids == int(images.image_ids[problem.image])).nonzero()[0]
            where += f", {dataset.image_name(int(found[0]))}"
        return NonFiniteError(f"{where}: {problem}", problem.image)
