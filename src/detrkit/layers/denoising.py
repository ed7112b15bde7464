"""Contrastive denoising (Zhang et al. 2022, DINO, arXiv:2203.03605, section 3.3; after Li et al. 2022, DN-DETR, arXiv:2203.01305).

In training, noised copies of the objects go through the decoder beside the queries. From a box near an object and a class that may be wrong
the decoder has to restore the object; from a box that is further off, nothing. Which is which is known, so nothing is matched, and boxes are
learned from the first step on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from detrkit.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from detrkit.layers.heads import inverse_sigmoid
from detrkit.layers.targets import check_targets
from detrkit.structures import Queries, QueryGroup, Target

EPSILON = 1e-3  # of the inverse sigmoid that DINO's boxes go through


class Noise(NamedTuple):
    """Chance, for G repetitions of M objects, each of which is a pair: one near its object and one further off.

    Attributes:
        flipped: (B, G, 2, M) bool, whether the class is replaced.
        labels: (B, G, 2, M) int64, by what; it may be the true one.
        signs: (B, G, 2, M, 4) -1 or 1, where each side of the box goes: left, top, right, bottom.
        shares: (B, G, 2, M, 4) in [0, 1), how far.
    """

    flipped: Tensor
    labels: Tensor
    signs: Tensor
    shares: Tensor


@dataclass(frozen=True)
class NoisedObjects:
    """What noise made of the objects: R = 2 G M rows, repetition after repetition, in each first the near ones, then the others.

    Attributes:
        labels: (B, R) int64; 0 in rows that no object has.
        boxes_cxcywh: (B, R, 4) corners in the image, every number between about 0.001 and 0.999; 0.5 in rows that no object has.
        real: (B, R) bool, False in rows that no object has, since another image of the batch has more.
        objects: (B, R) int64, the object of its image that a row has to restore, -1 for none.
        blocks: (R,) int64 repetition of each row.
    """

    labels: Tensor
    boxes_cxcywh: Tensor
    real: Tensor
    objects: Tensor
    blocks: Tensor


def draw_noise(images: int, repeats: int, objects: int, *, outputs: int, label_noise: float, like: Tensor) -> Noise:
    """Draws for every row.

    Args:
        images: B.
        repeats: G.
        objects: M.
        outputs: K.
        label_noise: probability that a class is replaced.
        like: a tensor of the device and type that is wanted.
    """
    shape = (images, repeats, 2, objects)
    return Noise(
        flipped=torch.rand(shape, device=like.device) < label_noise,
        labels=torch.randint(outputs, shape, device=like.device),
        signs=torch.randint(2, (*shape, 4), device=like.device).to(like) * 2 - 1,
        shares=torch.rand((*shape, 4), device=like.device, dtype=like.dtype),
    )


def noised_objects(targets: Sequence[Target], noise: Noise, *, box_noise: float) -> NoisedObjects:
    """Objects with changed classes and boxes.

    Each side of the near box moves by less than half of the box's own width or height times `box_noise`, of the other by once to twice as much.

    Args:
        targets: the objects of each image, M at most.
        noise: the draws.
        box_noise: lambda 1 of the paper, as the authors' scripts count it; lambda 2 is twice as much.
    """
    images, repeats, _, count = noise.labels.shape
    labels, boxes = noise.labels.new_zeros(images, count), noise.shares.new_full((images, count, 4), 0.5)
    real = torch.zeros_like(labels, dtype=torch.bool)
    for row, target in enumerate(targets):
        present = len(target.labels)
        labels[row, :present], boxes[row, :present], real[row, :present] = target.labels, target.boxes_cxcywh, True
    there = real[:, None, None].expand(-1, repeats, 2, -1)  # (B, G, 2, M)
    found = torch.where(noise.flipped, noise.labels, labels[:, None, None]).where(there, 0)
    places = torch.arange(count, device=labels.device).where(there, -1)
    places = torch.cat([places[:, :, :1], torch.full_like(places[:, :, 1:], -1)], dim=2)  # those further off have none
    shares = noise.shares + noise.shares.new_tensor([0.0, 1.0])[:, None, None]
    reach = boxes[..., 2:].repeat(1, 1, 2)[:, None, None] / 2 * box_noise  # (B, 1, 1, M, 4)
    corners = (cxcywh_to_xyxy(boxes)[:, None, None] + noise.signs * shares * reach).clamp(0, 1)
    # A box turned inside out has no width or height; what is no finite number stays for the matching to complain of.
    moved = xyxy_to_cxcywh(corners).nan_to_num(0.5).clamp(0, 1).where(there[..., None], 0.5)
    moved = inverse_sigmoid(moved, epsilon=EPSILON).sigmoid()
    blocks = torch.arange(repeats, device=labels.device).repeat_interleave(2 * count)
    return NoisedObjects(found.flatten(1), moved.flatten(1, 3), there.flatten(1), places.flatten(1), blocks)


class ContrastiveDenoising(nn.Module):
    """Adds noised objects to the queries; a code that is learned for each class is what they carry.

    Args:
        width: D.
        outputs: K.
        rows: how many queries it may add to an image, unless a single repetition of the objects takes more.
        label_noise: probability that a class is replaced; a quarter in DINO.
        box_noise: see `noised_objects`; 1 in DINO's scripts.
    """

    name = "denoising"  # of the group, and beginning of its losses' names

    def __init__(
        self, *, width: int, outputs: int, rows: int, label_noise: float = 0.25, box_noise: float = 1.0
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(outputs, width)
        self.rows, self.label_noise, self.box_noise = rows, label_noise, box_noise

    def forward(self, queries: Queries, targets: Sequence[Target], place: Callable[[Tensor], Tensor]) -> Queries:
        """Queries with a training group behind them and an attention mask: nobody sees the noised objects but their own repetition.

        Args:
            queries: Q for each image, with boxes as references.
            targets: the objects of each image. Without any there is one repetition of an empty row, so that the classes' codes take part in
                every step, which distributed training asks for.
            place: (B, R, 4) boxes cxcywh to (B, R, D) position codes.

        Raises:
            ValueError: see `check_targets`.
        """
        references = queries.references
        assert references is not None
        check_targets(targets, images=len(references), outputs=self.embedding.num_embeddings)
        most = max(1, *(len(target.labels) for target in targets))
        repeats = max(1, self.rows // (2 * most))
        noise = draw_noise(
            len(targets),
            repeats,
            most,
            outputs=self.embedding.num_embeddings,
            label_noise=self.label_noise,
            like=references,
        )
        noised = noised_objects(targets, noise, box_noise=self.box_noise)
        content = (self.embedding(noised.labels) * noised.real[..., None]).to(queries.content.dtype)  # (B, R, D)
        return dataclasses.replace(
            queries,
            content=torch.cat([queries.content, content], dim=1),
            position=torch.cat([queries.position, place(noised.boxes_cxcywh)], dim=1),
            references=torch.cat([references, noised.boxes_cxcywh], dim=1),
            training_groups=(*queries.training_groups, QueryGroup(self.name, noised.objects, repeats)),
            attention_mask=attention_mask(queries.content.shape[1], noised),
        )


def attention_mask(queries: int, noised: NoisedObjects) -> Tensor:
    """Who may see whom.

    Args:
        queries: Q, which come first.
        noised: the R that come after them.

    Returns:
        (B, Q + R, Q + R) bool: True where the row may see the column. All see the queries; a noised object also sees what is real of its
        own repetition.
    """
    blocks = torch.cat([noised.blocks.new_full((queries,), -1), noised.blocks])
    seen = (blocks[:, None] == blocks) | (blocks == -1)  # (Q + R, Q + R)
    real = nn.functional.pad(noised.real, (queries, 0), value=True)
    return seen & real[:, None]
