"""Denoising in training (Li et al. 2022, DN-DETR, arXiv:2203.01305), in parts, and DINO's contrastive form of it.

In training, noised copies of the objects go through the decoder beside the queries, and the decoder has to restore the objects from them. Which
copy belongs to which object is known, so nothing is matched, and boxes are learned from the first step on.

Papers differ in the noise and in who may see padding rows. They share the rest, so it comes in parts: `rows_that_fit` says how many rows there are,
`pick_objects` lays the objects of a batch into slots, `block_mask` says who sees whom, and `append_group` puts rows behind the queries. Rows
have one order: R = G · P · M, that is G repetitions, in each P copies (such as near and far ones), in each copy M slots with an object or none.

Contrastive denoising (Zhang et al. 2022, DINO, arXiv:2203.03605, section 3.3) makes two copies of every object: from a box near the object and a
class that may be wrong the decoder has to restore it; from a box that is further off, nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from detrkit.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from detrkit.errors import ConfigurationError
from detrkit.layers.heads import inverse_sigmoid
from detrkit.layers.targets import check_counts
from detrkit.structures import Queries, QueryGroup, Target

MOST_BOX_NOISE = 10.0  # beyond, every noised box is the whole image or next to nothing
EPSILON = 1e-3  # of the inverse sigmoid that DINO's boxes go through


class Slots(NamedTuple):
    """The objects of each image that get noised, M slots for every image.

    Attributes:
        objects: (B, M) int64, index of the object in its image, -1 in slots without one.
        labels: (B, M) int64, 0 in slots without an object.
        boxes_cxcywh: (B, M, 4), 0.5 in slots without an object.
    """

    objects: Tensor
    labels: Tensor
    boxes_cxcywh: Tensor


class Noise(NamedTuple):
    """Random numbers of contrastive denoising; the axis of two holds the near and the far copies.

    Attributes:
        flipped: (B, G, 2, M) bool, whether the class is replaced.
        labels: (B, G, 2, M) int64, by what; it may be the true one.
        signs: (B, G, 2, M, 4) -1 or 1, the direction in which each side of the box moves: left, top, right, bottom.
        shares: (B, G, 2, M, 4) in [0, 1), how far.
    """

    flipped: Tensor
    labels: Tensor
    signs: Tensor
    shares: Tensor


@dataclass(frozen=True)
class NoisedObjects:
    """What noise made of the objects, in R rows; the module's docstring gives their order.

    Attributes:
        labels: (B, R) int64; 0 in padding rows.
        boxes_cxcywh: (B, R, 4) with corners in the image, every number between about 0.001 and 0.999; 0.5 in padding rows.
        real: (B, R) bool, False in padding rows, whose slot has no object.
        objects: (B, R) int64, the object of its image that a row has to restore, -1 for none.
    """

    labels: Tensor
    boxes_cxcywh: Tensor
    real: Tensor
    objects: Tensor


def rows_that_fit(targets: Sequence[Target], *, rows: int, copies: int) -> tuple[int, int]:
    """Slots M and repetitions G with G · copies · M at most `rows`: as many repetitions as fit, or as many objects where one does not.

    Args:
        targets: the objects of each image.
        rows: the most that an image may get, at least `copies`.
        copies: P, rows for each object in one repetition.

    Returns:
        (M, G), both at least 1; one repetition of an empty slot where the batch has no objects.
    """
    most = max((len(target.labels) for target in targets), default=0)
    if most == 0:
        return 1, 1
    slots = min(most, rows // copies)
    return slots, rows // (copies * slots)


def pick_objects(targets: Sequence[Target], slots: int, *, like: Tensor) -> Slots:
    """The objects of each image in order; of an image with more than `slots`, a random choice from PyTorch's generator on the CPU.

    Indices are made on the CPU from the numbers of objects alone, so a GPU is not waited for.

    Args:
        targets: the objects of each image.
        slots: M.
        like: a tensor of the device and type that boxes shall have.
    """
    total = sum(len(target.labels) for target in targets)
    objects = torch.full((len(targets), slots), -1)
    # Positions among all objects of the batch; behind the last object is the box of empty slots.
    positions = torch.full_like(objects, total)
    first = 0
    for image, count in enumerate(len(target.labels) for target in targets):
        chosen = torch.randperm(count)[:slots].sort().values if count > slots else torch.arange(count)
        objects[image, : len(chosen)] = chosen
        positions[image, : len(chosen)] = first + chosen
        first += count
    objects, positions = (table.to(like.device, non_blocking=True) for table in (objects, positions))
    labels = [target.labels.to(like.device) for target in targets]
    boxes = [target.boxes_cxcywh.to(like) for target in targets]
    all_labels = torch.cat([*labels, objects.new_zeros(1)])
    all_boxes = torch.cat([*boxes, like.new_full((1, 4), 0.5)])
    return Slots(objects, all_labels[positions], all_boxes[positions])


def flip_labels(labels: Tensor, flipped: Tensor, replacements: Tensor) -> Tensor:
    """Classes of all rows, some replaced.

    Args:
        labels: (B, M) int64.
        flipped: (B, G, P, M) bool, where.
        replacements: (B, G, P, M) int64, by what.

    Returns:
        (B, G, P, M) int64.
    """
    return torch.where(flipped, replacements, labels[:, None, None])


def move_corners(boxes_cxcywh: Tensor, shifts: Tensor) -> Tensor:
    """Boxes of all rows with each side moved on its own; corners stay in the image.

    Args:
        boxes_cxcywh: (B, M, 4) in [0, 1].
        shifts: (B, G, P, M, 4) of left, top, right and bottom, in halves of the box's width or height.

    Returns:
        (B, G, P, M, 4) cxcywh. A box turned inside out has no width or height; numbers that are not finite become 0.5 or the nearest in [0, 1].
    """
    halves = boxes_cxcywh[..., 2:].repeat(1, 1, 2)[:, None, None] / 2  # (B, 1, 1, M, 4)
    corners = (cxcywh_to_xyxy(boxes_cxcywh)[:, None, None] + shifts * halves).clamp(0, 1)
    # A box that is not finite is reported by the matcher, so nothing is raised here.
    return xyxy_to_cxcywh(corners).nan_to_num(0.5).clamp(0, 1)


def draw_noise(images: int, repeats: int, slots: int, *, outputs: int, label_noise: float, like: Tensor) -> Noise:
    """Draws for every row of contrastive denoising.

    Args:
        images: B.
        repeats: G.
        slots: M.
        outputs: K.
        label_noise: probability that a class is replaced.
        like: a tensor of the device and type that is wanted.
    """
    shape = (images, repeats, 2, slots)
    return Noise(
        flipped=torch.rand(shape, device=like.device) < label_noise,
        labels=torch.randint(outputs, shape, device=like.device),
        signs=torch.randint(2, (*shape, 4), device=like.device).to(like) * 2 - 1,
        shares=torch.rand((*shape, 4), device=like.device, dtype=like.dtype),
    )


def contrastive_noise(slots: Slots, noise: Noise, *, box_noise: float, epsilon: float = EPSILON) -> NoisedObjects:
    """Objects with changed classes and boxes, near copies before far ones.

    Each side of the near box moves by less than half of the box's own width or height times `box_noise`, of the far one by once to twice as
    much.

    Args:
        slots: the objects.
        noise: the draws.
        box_noise: lambda 1 of the paper, as the authors' scripts count it; lambda 2 is twice as much.
        epsilon: of the inverse sigmoid that boxes go through; papers differ in it.
    """
    real = (slots.objects >= 0)[:, None, None].expand_as(noise.labels)  # (B, G, 2, M)
    far = torch.arange(2, device=real.device)[:, None]  # (2, 1): 0 for near copies, 1 for far ones
    labels = flip_labels(slots.labels, noise.flipped, noise.labels).where(real, 0)
    shifts = noise.signs * (noise.shares + far[..., None]) * box_noise  # (B, G, 2, M, 4)
    boxes = move_corners(slots.boxes_cxcywh, shifts).where(real[..., None], 0.5)
    boxes = inverse_sigmoid(boxes, epsilon=epsilon).sigmoid()
    objects = slots.objects[:, None, None].where(far == 0, -1).expand_as(noise.labels)
    return NoisedObjects(labels.flatten(1), boxes.flatten(1, 3), real.flatten(1), objects.flatten(1))


def block_mask(visible: Tensor, *, queries: int, repeats: int) -> Tensor:
    """Who may see whom: all see the queries; a noised object also sees what is visible in its own repetition.

    Args:
        visible: (B, R) bool, the rows that their repetition may see: the real ones, or all where a paper shows padding rows, too.
        queries: Q, which come first.
        repeats: G, which divides R.

    Returns:
        (B, 1, Q + R, Q + R) bool: True where the row may see the column.
    """
    rows = visible.shape[1]
    block = torch.arange(rows, device=visible.device) // (rows // repeats)
    same = nn.functional.pad(block[:, None] == block, (0, 0, queries, 0))  # (Q + R, R), no query sees any of them
    among = same & visible[:, None]  # (B, Q + R, R)
    return nn.functional.pad(among, (queries, 0), value=True)[:, None]


def append_group(
    queries: Queries, group: QueryGroup, *, content: Tensor, position: Tensor | None, references: Tensor, mask: Tensor
) -> Queries:
    """Queries with a training group behind them.

    Args:
        queries: Q for each image, with references.
        group: what the R rows are for.
        content: (B, R, D), cast to the type of the queries'.
        position: (B, R, D); None where the queries have none either.
        references: (B, R, 4) boxes cxcywh, or (B, R, 2) points, like the queries'.
        mask: (B, 1, Q + R, Q + R) bool, see `block_mask`; a mask that the queries already have stays in force among them.
    """
    assert queries.references is not None
    positions = [part for part in (queries.position, position) if part is not None]
    assert len(positions) != 1, "all queries have position codes, or none has"
    if queries.mask is not None:
        padding = (0, content.shape[1], 0, content.shape[1])
        mask = mask & nn.functional.pad(queries.mask, padding, value=True)
    return dataclasses.replace(
        queries,
        content=torch.cat([queries.content, content.to(queries.content.dtype)], dim=1),
        position=torch.cat(positions, dim=1) if positions else None,
        references=torch.cat([queries.references, references], dim=1),
        training_groups=(*queries.training_groups, group),
        mask=mask,
    )


class ContrastiveDenoising(nn.Module):
    """Adds noised objects to the queries; they carry a code that is learned for each class.

    Args:
        width: D.
        outputs: K.
        rows: the most queries that it adds to an image, at least two. Where they do not suffice for two copies of every object, each step
            takes other objects.
        label_noise: probability that a class is replaced; a quarter in DINO.
        box_noise: see `contrastive_noise`; 1 in DINO's scripts.
        codes: how many codes there are, at least K; None for K. Further ones are not used, but authors' files have them.

    Raises:
        ConfigurationError: too few rows for a pair, or fewer codes than classes.
    """

    name = "denoising"  # of the group, and beginning of its losses' names
    copies = 2  # near and far

    def __init__(
        self,
        *,
        width: int,
        outputs: int,
        rows: int,
        label_noise: float = 0.25,
        box_noise: float = 1.0,
        codes: int | None = None,
    ) -> None:
        super().__init__()
        codes = outputs if codes is None else codes
        if rows < self.copies:
            raise ConfigurationError(f"denoising needs at least {self.copies} rows, a near and a far one, not {rows}")
        if codes < outputs:
            raise ConfigurationError(f"denoising needs a code for each of {outputs} classes, not {codes} codes")
        self.embedding = nn.Embedding(codes, width)
        self.outputs, self.rows, self.label_noise, self.box_noise = outputs, rows, label_noise, box_noise

    def forward(
        self,
        queries: Queries,
        targets: Sequence[Target],
        encode: Callable[[Tensor], Tensor] | None = None,
    ) -> Queries:
        """Queries with a training group behind them and a mask: nobody sees the noised objects but their own repetition.

        Args:
            queries: Q for each image, with boxes as references, or with points, which noised boxes are then reduced to.
            targets: the objects of each image. Without any there is one repetition of an empty slot that counts in no loss, so that the
                classes' codes take part in every step, as distributed training requires. A label that is not an output is left for the
                criterion to refuse.
            encode: (B, R, 4) boxes cxcywh to (B, R, D) position codes; None where queries have none.

        Raises:
            ValueError: see `check_counts`.
        """
        references = queries.references
        assert references is not None
        check_counts(targets, images=len(references))
        count, repeats = rows_that_fit(targets, rows=self.rows, copies=self.copies)
        slots = pick_objects(targets, count, like=references)
        noised = contrastive_noise(slots, self.draw(repeats, like=slots.boxes_cxcywh), box_noise=self.box_noise)
        codes = self.embedding(noised.labels.clamp(0, self.outputs - 1))  # (B, R, D)
        group = QueryGroup(self.name, rows=codes.shape[1], objects=noised.objects, repeats=repeats)
        if not any(len(target.labels) for target in targets):
            group = dataclasses.replace(group, counted=torch.zeros_like(noised.real))
        return append_group(
            queries,
            group,
            content=codes * noised.real[..., None],
            position=None if encode is None else encode(noised.boxes_cxcywh),
            references=noised.boxes_cxcywh[..., : references.shape[-1]],
            mask=block_mask(self.visible(noised), queries=queries.content.shape[1], repeats=repeats),
        )

    def draw(self, repeats: int, *, like: Tensor) -> Noise:
        """Random numbers from PyTorch's generator; replace this to give others.

        Args:
            repeats: G.
            like: (B, M, 4), of the device and type that is wanted.
        """
        images, slots, _ = like.shape
        return draw_noise(images, repeats, slots, outputs=self.outputs, label_noise=self.label_noise, like=like)

    def visible(self, noised: NoisedObjects) -> Tensor:
        """(B, R) bool, the rows that their repetition may see: all of them, as in DINO. Papers that hide padding rows override this."""
        return torch.ones_like(noised.real)
