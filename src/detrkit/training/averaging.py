"""The average of the weights over the steps of a run, which is often better than the weights of its last step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from detrkit.models.detector import Detector, unwrapped
from detrkit.training.module import TrainingModule


def weight_of_step(decay: float, updates: int) -> float:
    """The share of a step's weights in the average of it and all before.

    A decay near 1 looks back over 1 / (1 - decay) steps, more than a short run has. So the decay rises: after n updates the average is at
    most over about the last ninth of them.

    Args:
        decay: of the average in the long run.
        updates: how often the average was updated before, 1 or more.
    """
    return 1 - min(decay, (1 + updates) / (10 + updates))


def average_of(model: Detector, decay: float) -> AveragedModel:
    """A copy of a model that averages its weights, and its buffers with floating-point numbers, such as statistics of batch norms.

    Args:
        model: at the beginning of its training.
        decay: see `weight_of_step`.
    """

    def mix(averaged: list[Tensor], current: list[Tensor], updates: Tensor | int) -> None:
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, weight_of_step(decay, int(updates)))
        else:  # counters
            torch._foreach_copy_(averaged, current)

    average = AveragedModel(model, multi_avg_fn=mix, use_buffers=True)  # type: ignore[arg-type]
    return average.requires_grad_(False)


class Averaging(Callback):
    """Adds the weights of every optimizer step to an average, which checkpoints hold beside them.

    Args:
        decay: see `weight_of_step`.
    """

    def __init__(self, decay: float) -> None:
        self._decay, self._step = decay, 0
        self._average: AveragedModel | None = None

    @property
    def model(self) -> Detector:
        """The average, as a model that can be evaluated and saved."""
        assert self._average is not None
        return unwrapped(self._average.module)

    def setup(self, trainer: Trainer, pl_module: TrainingModule, stage: str) -> None:  # type: ignore[override]  # noqa: ARG002 - Lightning requires them
        """Begins with the weights that the run begins with; a checkpoint brings its own later."""
        self.begin(pl_module)

    def begin(self, module: TrainingModule) -> None:
        """Begins with the weights that a module has now, on its device."""
        self._average = average_of(module.model, self._decay)

    def restore(self, module: TrainingModule, callbacks: Mapping[str, Any]) -> None:
        """Goes on with the average of a checkpoint, before a run goes on.

        Args:
            module: of the run.
            callbacks: their parts of the checkpoint.
        """
        self.begin(module)
        self.load_state_dict(callbacks[self.state_key])

    def on_train_start(self, trainer: Trainer, pl_module: TrainingModule) -> None:  # type: ignore[override]
        """Notes the step that a run begins or goes on with."""
        assert self._average is not None
        self._average.to(pl_module.device)
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: TrainingModule, *_: object) -> None:  # type: ignore[override]
        """Adds a step, once for all pieces of its batch."""
        assert self._average is not None
        if trainer.global_step > self._step:
            self._step = trainer.global_step
            self._average.update_parameters(pl_module.model)

    def state_dict(self) -> dict[str, Any]:
        """The average and how often it was updated."""
        return {} if self._average is None else self._average.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with the average of a checkpoint."""
        assert self._average is not None
        self._average.load_state_dict(state_dict)
