"""What a run tells about its convergence, besides losses and AP: how much the matching changes from epoch to epoch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from detrkit.data import DetectionDataset
from detrkit.evaluation.runner import eval_mode, loader_of
from detrkit.measures import MATCHING_INSTABILITY
from detrkit.models.catalog import criterion_for
from detrkit.models.detector import Detector
from detrkit.structures import Output

IMAGES = 64  # that are looked at after every epoch


class ConvergenceWatch:
    """Matches the objects of some training images after every epoch, and compares with the epoch before.

    The measure is that of Li et al. 2022 (DN-DETR, arXiv:2203.01305, section 3.1): the share of objects that another query is matched to. Queries
    of a two-stage model are told apart by the proposal that they start from, since their order says nothing.

    Args:
        training: the training images, of which the first ones with objects are looked at.
        workers: processes that read images.
    """

    def __init__(self, training: DetectionDataset, *, workers: int = 0) -> None:
        counts = training.offsets[1:] - training.offsets[:-1]
        self.training, self.workers = training, workers
        self.images = [image for image, count in enumerate(counts.tolist()) if count][:IMAGES]
        self._before: Tensor | None = None

    def state(self) -> dict[str, Any]:
        """What a resumed run needs for its next figure."""
        return {"before": self._before}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on where `state` was taken."""
        self._before = state["before"]

    def figures(self, model: Detector) -> dict[str, float]:
        """Figures of the epoch for the log, a mean over the decoder layers and one for each; none after the first epoch.

        Args:
            model: as it is after the epoch; it is left as it is.
        """
        now, before = self._queries(model), self._before
        self._before = now
        if before is None or before.shape != now.shape:
            return {}
        shares = (now != before).float().mean(1).tolist()  # (L,)
        column = MATCHING_INSTABILITY.column
        return {column: sum(shares) / len(shares)} | {f"{column}_{layer}": each for layer, each in enumerate(shares)}

    @torch.no_grad()
    def _queries(self, model: Detector) -> Tensor:
        """(L, N) int64, what the objects of all images are matched to."""
        criterion: Any = criterion_for(model)
        found = []
        loader = loader_of(model, self.training, batch_size=1, workers=self.workers, images=self.images)
        device = next(model.parameters()).device
        with eval_mode(model):
            for batch, targets in loader:
                targets = [target.to(device) for target in targets]
                output = model(batch.to(device))
                matches = criterion.matcher(output, targets)
                chosen = _identities(output)[matches.images, matches.queries]  # (L, N)
                # In the order of objects; one without a query of its own, which has too many rivals, counts as a query that nothing has.
                places = torch.full((len(chosen), len(targets[0].labels)), -1, device=device)
                found.append(places.scatter(1, matches.objects.to(device), chosen).cpu())
        return torch.cat(found, dim=1)


def _identities(output: Output) -> Tensor:
    """(B, Q) int64, what stays the same of a query from epoch to epoch: its place, or the token that it was made of."""
    if output.proposals is not None and output.proposals.rows is not None:
        return output.proposals.rows
    batch, queries = output.logits.shape[1:3]
    return torch.arange(queries, device=output.logits.device).expand(batch, -1)
