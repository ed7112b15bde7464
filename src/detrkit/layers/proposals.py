"""Proposals by the encoder's tokens: the first stage of two-stage detectors (Deformable DETR, appendix A.4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detrkit.layers.heads import MLP, precisely
from detrkit.structures import LayerOutput, Memory


class TokenProposals(nn.Module):
    """The encoder's own heads: every token scores the classes and moves a box that starts around it.

    Tokens behind padding, and tokens whose starting box is too near the border of the image, are excluded as in the authors' code: they all
    get the same feature and a box of (1, 1, 1, 1), and could still be chosen.

    Args:
        width: D.
        outputs: K.
    """

    def __init__(self, *, width: int, outputs: int) -> None:
        super().__init__()
        self.projection, self.norm = nn.Linear(width, width), nn.LayerNorm(width)
        self.class_head, self.box_head = nn.Linear(width, outputs), MLP(width, width, width, 4)
        nn.init.xavier_uniform_(self.projection.weight)

    def forward(self, memory: Memory) -> LayerOutput:
        """Class scores (B, S, K) and boxes (B, S, 4) of every token, in float32 or better, since small differences of scores decide which are chosen."""
        return self.predict(memory.tokens, *proposal_anchors(memory))

    def predict(self, tokens: Tensor, anchor_logits: Tensor, usable: Tensor) -> LayerOutput:
        """Class scores and boxes of some tokens; arguments are rows of memory's tokens and of what `proposal_anchors` returned for them.

        Args:
            tokens: (B, N, D).
            anchor_logits: (B, N, 4) logits of the boxes that they start from.
            usable: (B, N) bool, False where a token is left out.
        """
        features = self._features(tokens, usable)
        starts = anchor_logits.masked_fill(~usable[..., None], torch.inf)
        box_logits = precisely(self.box_head, features) + starts
        return LayerOutput(precisely(self.class_head, features), box_logits.sigmoid())

    def class_logits(self, tokens: Tensor, usable: Tensor) -> Tensor:
        """(B, N, K) class scores alone, for papers that choose by them; arguments as in `predict`."""
        return precisely(self.class_head, self._features(tokens, usable))

    def _features(self, tokens: Tensor, usable: Tensor) -> Tensor:
        """(B, N, D), what the heads look at."""
        return self.norm(self.projection(tokens.masked_fill(~usable[..., None], 0.0)))  # type: ignore[no-any-return]

    def pairs(self) -> list[tuple[nn.Linear, MLP]]:
        """The class head with its box head."""
        return [(self.class_head, self.box_head)]


def take_rows(proposals: LayerOutput, rows: Tensor) -> LayerOutput:
    """The proposals that are chosen, without gradient: what becomes of queries does not teach proposals.

    Args:
        proposals: of every token, (B, S, ...).
        rows: (B, Q) int64.

    Returns:
        (B, Q, ...).
    """
    return LayerOutput(rows_of(proposals.logits.detach(), rows), rows_of(proposals.boxes_cxcywh.detach(), rows))


def rows_of(values: Tensor, rows: Tensor) -> Tensor:
    """Some tokens of each image.

    Args:
        values: (B, S) or (B, S, C).
        rows: (B, Q) int64.

    Returns:
        (B, Q) or (B, Q, C).
    """
    if values.dim() == 2:
        return values.gather(1, rows)
    return values.gather(1, rows[..., None].expand(-1, -1, values.shape[-1]))


def token_centers(memory: Memory) -> Tensor:
    """(B, S, 2) centre of every token as fractions of the image without its padding, float32; above 1 behind padding."""
    centers = []
    for (height, width), size in zip(memory.level_sizes, memory.valid_sizes.unbind(1), strict=True):
        cells = [torch.arange(side, dtype=torch.float32, device=size.device) + 0.5 for side in (height, width)]
        y, x = torch.meshgrid(*cells, indexing="ij")
        centers.append(torch.stack([x, y], dim=-1).flatten(0, 1) / size[:, None])  # (B, h * w, 2)
    return torch.cat(centers, dim=1)


def proposal_anchors(memory: Memory) -> tuple[Tensor, Tensor]:
    """The box that each token starts from, 0.05 · 2^level wide and high.

    Returns:
        (B, S, 4) logits of cxcywh in float32, 0 where not usable; (B, S) bool, False behind padding and where a coordinate or side lies outside (0.01, 0.99).
    """
    sides = [
        torch.full((height * width, 2), 0.05 * 2.0**level, device=memory.tokens.device)
        for level, (height, width) in enumerate(memory.level_sizes)
    ]
    centers = token_centers(memory)
    anchors = torch.cat([centers, torch.cat(sides).expand_as(centers)], dim=-1)
    usable = ((anchors > 0.01) & (anchors < 0.99)).all(-1)
    if memory.padding is not None:
        usable = usable & ~memory.padding
    anchors = torch.where(usable[..., None], anchors, 0.5)
    return torch.log(anchors / (1 - anchors)), usable
