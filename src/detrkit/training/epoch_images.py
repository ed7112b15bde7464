"""Which images an epoch has: each once, or those with rare classes several times."""

from __future__ import annotations

from detrkit.data import DetectionDataset, epoch_order
from detrkit.data.repeats import images_per_epoch, repeat_factors, repeated_order
from detrkit.data.wording import counted
from detrkit.training.training_options import TrainingOptions


class EpochImages:
    """The images of every epoch of a run, in their order.

    Args:
        options: the resolved options.
        training: the images that are learned from.
    """

    def __init__(self, options: TrainingOptions, training: DetectionDataset) -> None:
        self._seed, self._count = options.seed, len(training)
        self._factors = None if options.repeat_rare is None else repeat_factors(training, options.repeat_rare)

    def __len__(self) -> int:
        return self._count if self._factors is None else images_per_epoch(self._factors)

    def order(self, epoch: int) -> list[int]:
        """Indices for `TrainingData`, which depend on seed and epoch alone.

        Args:
            epoch: counted from 0.
        """
        if self._factors is None:
            return epoch_order(self._count, self._seed, epoch)
        return repeated_order(self._factors, self._seed, epoch)

    def note(self) -> str | None:
        """What repeating makes of the number of images; None where nothing is to be repeated."""
        if self._factors is None:
            return None
        if len(self) == self._count:
            return "Note: no class is rare enough for its images to be repeated, so an epoch has each image once."
        most, repeated = float(self._factors.max()), int((self._factors > 1).sum())
        return (
            f"An epoch has {counted(len(self), 'image')} instead of {self._count}: {counted(repeated, 'image')} with rare classes "
            f"come up to {most:.3g} times."
        )
