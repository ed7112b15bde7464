"""Noised objects: by hand, against the authors' draws and what they made of them, and who may see them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from detrkit.errors import ConfigurationError
from detrkit.layers.denoising import (
    ContrastiveDenoising,
    Noise,
    NoisedObjects,
    append_group,
    block_mask,
    contrastive_noise,
    draw_noise,
    pick_objects,
    rows_that_fit,
)
from detrkit.structures import Queries, QueryGroup, Target

TARGETS = [
    Target(torch.tensor([1, 2]), torch.tensor([[0.5, 0.5, 0.2, 0.4], [0.9, 0.1, 0.2, 0.2]])),
    Target(torch.tensor([0]), torch.tensor([[0.3, 0.3, 0.1, 0.1]])),
    Target(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4)),
]


def quiet(images: int = 3, repeats: int = 2, objects: int = 2) -> Noise:
    """Chance that changes nothing but the boxes further off."""
    shape = (images, repeats, 2, objects)
    return Noise(
        flipped=torch.zeros(shape, dtype=torch.bool),
        labels=torch.zeros(shape, dtype=torch.int64),
        signs=torch.ones(*shape, 4),
        shares=torch.zeros(*shape, 4),
    )


def noised_objects(targets: list[Target], noise: Noise, *, box_noise: float) -> NoisedObjects:
    """As many slots as the noise has."""
    slots = pick_objects(targets, noise.labels.shape[-1], like=noise.shares)
    return contrastive_noise(slots, noise, box_noise=box_noise)


def many(*counts: int) -> list[Target]:
    """Images with so many objects; the i-th object of an image has class i."""
    return [Target(torch.arange(count), 0.3 + 0.4 * torch.rand(count, 4)) for count in counts]


@pytest.mark.parametrize(
    ("counts", "rows", "copies", "wanted"),
    [
        ((2, 1, 0), 9, 2, (2, 2)),  # two pairs are four rows, twice
        ((5, 7), 60, 2, (7, 4)),
        ((30,), 60, 2, (30, 1)),
        ((31,), 60, 2, (30, 1)),  # not all of them
        ((500, 1), 60, 2, (30, 1)),
        ((500,), 60, 1, (60, 1)),
        ((7,), 60, 1, (7, 8)),
        ((3,), 2, 2, (1, 1)),
        ((0, 0), 60, 2, (1, 1)),
        ((), 60, 2, (1, 1)),
    ],
)
def test_rows_never_exceed_what_was_asked_for(
    counts: tuple[int, ...], rows: int, copies: int, wanted: tuple[int, int]
) -> None:
    slots, repeats = rows_that_fit(many(*counts), rows=rows, copies=copies)
    assert (slots, repeats) == wanted
    assert slots * repeats * copies <= rows


def test_slots_hold_the_objects_in_order() -> None:
    slots = pick_objects(TARGETS, 2, like=torch.zeros(0, dtype=torch.float64))
    assert slots.objects.tolist() == [[0, 1], [0, -1], [-1, -1]]
    assert slots.labels.tolist() == [[1, 2], [0, 0], [0, 0]]
    assert slots.boxes_cxcywh.dtype == torch.float64
    torch.testing.assert_close(slots.boxes_cxcywh[0], TARGETS[0].boxes_cxcywh.double())
    torch.testing.assert_close(slots.boxes_cxcywh[1, 0], TARGETS[1].boxes_cxcywh[0].double())
    assert (slots.boxes_cxcywh[1, 1] == 0.5).all()
    assert (slots.boxes_cxcywh[2] == 0.5).all()


def test_of_more_objects_each_step_takes_others_and_all_get_their_turn() -> None:
    torch.manual_seed(0)
    targets, taken = many(10, 3), torch.zeros(10)
    for _ in range(400):
        slots = pick_objects(targets, 4, like=torch.zeros(0))
        assert slots.objects[1].tolist() == [0, 1, 2, -1]
        chosen = slots.objects[0]
        assert (chosen.diff() > 0).all()  # rising, so none twice
        assert torch.equal(slots.labels[0], chosen)
        assert torch.equal(slots.boxes_cxcywh[0], targets[0].boxes_cxcywh[chosen])
        taken[chosen] += 1
    assert taken.div(400).tolist() == pytest.approx([0.4] * 10, abs=0.1)


def test_the_choice_depends_on_the_generator_and_only_where_there_is_one() -> None:
    torch.manual_seed(3)
    first = pick_objects(many(50), 20, like=torch.zeros(0))
    torch.manual_seed(3)
    assert torch.equal(pick_objects(many(50), 20, like=torch.zeros(0)).objects, first.objects)
    assert not torch.equal(pick_objects(many(50), 20, like=torch.zeros(0)).objects, first.objects)
    before = torch.get_rng_state()
    pick_objects(TARGETS, 2, like=torch.zeros(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_rows_and_what_they_answer_for() -> None:
    noised = noised_objects(TARGETS, quiet(), box_noise=1.0)
    assert noised.objects.tolist() == [[0, 1, -1, -1] * 2, [0, -1, -1, -1] * 2, [-1] * 8]
    assert noised.real.tolist() == [[True] * 8, [True, False] * 4, [False] * 8]
    assert noised.labels.tolist() == [[1, 2, 1, 2] * 2, [0] * 8, [0] * 8]
    torch.testing.assert_close(noised.boxes_cxcywh[0, :2], TARGETS[0].boxes_cxcywh)
    torch.testing.assert_close(noised.boxes_cxcywh[1, 1], torch.full((4,), 0.5))
    torch.testing.assert_close(noised.boxes_cxcywh[2], torch.full((8, 4), 0.5))


def test_a_near_and_a_far_box_by_hand() -> None:
    noise = quiet(images=1, repeats=1, objects=1)
    noise.shares[:] = torch.tensor([0.5, 0.0, 0.25, 0.75])
    noise.signs[..., 1:3] = -1
    target = Target(torch.tensor([0]), torch.tensor([[0.5, 0.5, 0.2, 0.4]]))  # sides at 0.4, 0.3, 0.6 and 0.7
    (near, far) = noised_objects([target], noise, box_noise=0.5).boxes_cxcywh[0]
    # Half a width is 0.1 and half a height 0.2; half of that is how far a whole share goes.
    left, top, right, bottom = 0.4 + 0.025, 0.3, 0.6 - 0.0125, 0.7 + 0.075
    wanted = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
    torch.testing.assert_close(near, torch.tensor(wanted))
    left, top, right, bottom = 0.4 + 0.075, 0.3 - 0.1, 0.6 - 0.0625, 0.7 + 0.175
    wanted = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
    torch.testing.assert_close(far, torch.tensor(wanted))


def test_boxes_stay_in_the_image_and_keep_no_negative_side() -> None:
    noise = quiet(objects=2)
    noise.shares[:] = 0.9
    noise.signs[..., 2:] = -1  # left and top move right and down, right and bottom left and up
    boxes = noised_objects(TARGETS, noise, box_noise=1.0).boxes_cxcywh
    assert (boxes > 0.0009).all()
    assert (boxes < 0.9991).all()
    torch.testing.assert_close(boxes[0, 2:4, 2:], torch.full((2, 2), 1e-3 / 1.001))


def test_classes_change_where_chance_says_so() -> None:
    noise = quiet()
    noise.labels[:] = 7
    noise.flipped[0, 1, :, 0] = True
    noise.flipped[1, :, :, 1] = True  # a row without an object
    assert noised_objects(TARGETS, noise, box_noise=1.0).labels.tolist() == [[1, 2, 1, 2, 7, 2, 7, 2], [0] * 8, [0] * 8]


def test_draws_have_their_probabilities() -> None:
    torch.manual_seed(0)
    noise = draw_noise(4, 50, 30, outputs=5, label_noise=0.25, like=torch.zeros(0, dtype=torch.float64))
    assert noise.flipped.double().mean() == pytest.approx(0.25, abs=0.02)
    assert torch.bincount(noise.labels.flatten(), minlength=5).div(noise.labels.numel()).tolist() == pytest.approx(
        [0.2] * 5, abs=0.02
    )
    assert set(noise.signs.unique().tolist()) == {-1, 1}
    assert noise.signs.mean() == pytest.approx(0.0, abs=0.02)
    assert noise.shares.mean() == pytest.approx(0.5, abs=0.02)
    assert noise.shares.dtype == torch.float64
    assert 0 <= noise.shares.min() < 0.01
    assert 0.99 < noise.shares.max() < 1


def test_who_sees_whom() -> None:
    real = noised_objects(TARGETS[:2], quiet(images=2), box_noise=1.0).real
    mask = block_mask(real, queries=2, repeats=2)
    assert mask.shape == (2, 1, 10, 10)
    mask = mask[:, 0]
    queries, first, second = [True] * 2, [True] * 4 + [False] * 4, [False] * 4 + [True] * 4
    for row in range(2):
        assert mask[0, row].tolist() == queries + [False] * 8
    for row in range(2, 6):
        assert mask[0, row].tolist() == queries + first
    for row in range(6, 10):
        assert mask[0, row].tolist() == queries + second
    assert mask[1, 6].tolist() == queries + [False] * 4 + [True, False] * 2  # the second image has one object
    everything = block_mask(torch.ones_like(real), queries=2, repeats=2)[:, 0]
    assert torch.equal(everything[0], mask[0])
    assert torch.equal(everything[1], mask[0])  # with its padding rows in sight


def test_a_second_group_leaves_the_first_as_it_is() -> None:
    first = torch.tensor([[[True, False, False], [True, True, False], [False, True, True]]])
    queries = dataclasses.replace(queries_of(1), mask=first[None], training_groups=(QUIET_GROUP,))
    group = QueryGroup(name="second", rows=2, objects=torch.tensor([[0, -1]]), repeats=1)
    added = queries_of(1, count=2)
    assert added.references is not None
    found = append_group(
        queries,
        group,
        content=added.content.double(),
        position=added.position,
        references=added.references,
        mask=block_mask(torch.ones(1, 2, dtype=torch.bool), queries=3, repeats=2),
    )
    assert found.training_groups == (QUIET_GROUP, group)
    assert found.content.dtype == torch.float32
    assert torch.equal(found.content[:, 3:], added.content)
    assert found.mask is not None
    assert torch.equal(found.mask[0, :, :3, :3], first)
    assert not found.mask[:, :, :3, 3:].any()
    assert found.mask[0, 0, 3].tolist() == [True, True, True, True, False]
    assert found.mask[0, 0, 4].tolist() == [True, True, True, False, True]


QUIET_GROUP = QueryGroup(name="first", rows=1, objects=torch.tensor([[0]]), repeats=1)


def queries_of(images: int, count: int = 3, width: int = 8) -> Queries:
    content, position = torch.randn(2, images, count, width)
    return Queries(content, position, torch.rand(images, count, 4))


def test_queries_come_first_and_unchanged() -> None:
    denoising = ContrastiveDenoising(width=8, outputs=3, rows=9, label_noise=0.0)
    own = queries_of(3)
    found = denoising(own, TARGETS, lambda boxes: boxes.repeat(1, 1, 2))
    (group,) = found.training_groups
    assert (group.name, group.repeats, group.objects.shape) == ("denoising", 2, (3, 8))  # 9 rows hold two pairs of two
    for name in ("content", "position", "references"):
        assert torch.equal(getattr(found, name)[:, :3], getattr(own, name)), name
    assert torch.equal(found.position[:, 3:], found.references[:, 3:].repeat(1, 1, 2))
    assert torch.equal(found.content[0, 3], denoising.embedding.weight[1])
    assert torch.equal(found.content[1, 3], denoising.embedding.weight[0])
    assert not found.content[1, 4].any()
    assert not found.content[2, 3:].any()


def test_noise_has_the_strength_that_it_should_have() -> None:
    denoising = ContrastiveDenoising(width=8, outputs=3, rows=4000)
    assert (denoising.label_noise, denoising.box_noise) == (0.25, 1.0)
    target = Target(torch.tensor([1]), torch.tensor([[0.5, 0.5, 0.1, 0.2]]))
    for label_noise, box_noise in ((0.25, 1.0), (0.75, 0.5)):
        denoising.label_noise, denoising.box_noise = label_noise, box_noise
        found = denoising(queries_of(1, count=0), [target], lambda boxes: boxes.repeat(1, 1, 2))
        kept = (found.content[0] == denoising.embedding.weight[1]).all(-1).float().mean().item()
        assert kept == pytest.approx(1 - label_noise * 2 / 3, abs=0.03)  # a third of the draws is the true class
        assert found.references is not None
        near, far = (
            (found.references[0, part::2] - target.boxes_cxcywh).abs().amax(0) / torch.tensor([0.1, 0.2]).repeat(2)
            for part in (0, 1)
        )
        # Both sides of a box move by half its size at most, or twice that: its centre by half, its size by the whole.
        for reach, factor in ((near, 1), (far, 2)):
            most = torch.tensor([0.5, 0.5, 1.0, 1.0]) * box_noise * factor
            assert (reach <= most + 1e-4).all()
            assert (reach > 0.8 * most).all()


def test_wrong_targets_are_refused_before_they_are_used() -> None:
    denoising, encode = ContrastiveDenoising(width=8, outputs=3, rows=4), lambda boxes: boxes.repeat(1, 1, 2)
    with pytest.raises(ValueError, match=r"^the batch has 2 images but 3 targets were given"):
        denoising(queries_of(2), TARGETS, encode)
    with pytest.raises(ValueError, match=r"^target 0 has 1 labels for 2 boxes$"):
        denoising(queries_of(1), [Target(torch.tensor([0]), torch.rand(2, 4))], encode)


@pytest.mark.parametrize(("label", "nearest"), [(3, 2), (-1, 0)])
def test_labels_outside_are_left_for_the_criterion(label: int, nearest: int) -> None:
    denoising = ContrastiveDenoising(width=8, outputs=3, rows=2, label_noise=0.0)
    target = Target(torch.tensor([label]), torch.rand(1, 4))
    found = denoising(queries_of(1), [target], lambda boxes: boxes.repeat(1, 1, 2))
    assert torch.equal(found.content[0, 3], denoising.embedding.weight[nearest])


def test_too_few_rows_for_a_pair_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"^denoising needs at least 2 rows, a near and a far one, not 1$"):
        ContrastiveDenoising(width=8, outputs=3, rows=1)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_boxes_that_are_no_numbers_harm_nobody_else(value: float) -> None:
    target = Target(torch.tensor([0]), torch.tensor([[0.5, value, 0.2, 0.2]]))
    found = ContrastiveDenoising(width=8, outputs=3, rows=4)(
        queries_of(1), [target], lambda boxes: boxes.repeat(1, 1, 2)
    )
    assert found.references is not None
    assert found.references.isfinite().all()


def test_crowded_images_get_no_more_rows_than_set() -> None:
    torch.manual_seed(0)
    denoising, targets = ContrastiveDenoising(width=8, outputs=50, rows=6, label_noise=0.0), many(50, 1)
    found = denoising(queries_of(2), targets, lambda boxes: boxes.repeat(1, 1, 2))
    (group,) = found.training_groups
    assert group.repeats == 1
    assert found.content.shape == (2, 3 + 6, 8)
    chosen = group.objects[0, :3]
    assert group.objects.tolist() == [[*chosen.tolist(), -1, -1, -1], [0, -1, -1, -1, -1, -1]]
    assert chosen.unique().numel() == 3
    codes = denoising.embedding.weight[chosen]  # the i-th object has class i
    assert torch.equal(found.content[0, 3:], codes.repeat(2, 1))
    again = denoising(queries_of(2), targets, lambda boxes: boxes.repeat(1, 1, 2)).training_groups[0].objects
    assert not torch.equal(again, group.objects)


def test_without_objects_the_codes_still_take_part() -> None:
    denoising = ContrastiveDenoising(width=8, outputs=3, rows=4)
    found = denoising(queries_of(1), TARGETS[2:], lambda boxes: boxes.repeat(1, 1, 2))
    assert found.content.shape == (1, 3 + 2, 8)  # one repetition, near and far
    assert (found.training_groups[0].objects == -1).all()
    found.content.sum().backward()
    assert denoising.embedding.weight.grad is not None
    assert not denoising.embedding.weight.grad.any()


def authors_noise(arrays: dict[str, np.ndarray], repeats: int, counts: list[int]) -> Noise:
    """Their draws, made for the objects of all images end to end, in our layout."""
    noise = quiet(len(counts), repeats, max(counts))
    noise = Noise(noise.flipped, noise.labels, noise.signs.double(), noise.shares.double())
    replacements = iter(arrays["draw.label_new"].tolist())
    rows = iter(range(len(arrays["draw.label_uniform"])))
    for block in range(2 * repeats):
        for image, count in enumerate(counts):
            for index in range(count):
                row, place = next(rows), (image, block // 2, block % 2, index)
                noise.flipped[place] = bool(arrays["draw.label_uniform"][row] < 0.25)
                if noise.flipped[place]:
                    noise.labels[place] = next(replacements)
                noise.signs[place] = torch.from_numpy(np.sign(arrays["draw.box_sign"][row] - 0.5))
                noise.shares[place] = torch.from_numpy(arrays["draw.box_uniform"][row])
    assert next(rows, None) is None
    assert next(replacements, None) is None
    return noise


def test_the_same_draws_make_the_same_noise_as_in_the_authors_code(shared: Path) -> None:
    case = shared / "golden" / "dino_r50_4scale"
    targets = [
        Target(torch.tensor(each["labels"]), torch.tensor(each["boxes"], dtype=torch.float64))
        for each in json.loads((case / "manifest.json").read_text())["targets"]
    ]
    arrays = dict(np.load(case / "denoising.npz"))
    noised = noised_objects(targets, authors_noise(arrays, 25, [4, 2]), box_noise=1.0)
    np.testing.assert_allclose(noised.boxes_cxcywh.logit(), arrays["query.boxes_unsigmoid"], atol=1e-6)
    assert np.array_equal(noised.labels[noised.real], arrays["query.labels"][noised.real.numpy()])
    # They put noised objects before the queries, say who may not be seen, and let padding rows be seen by their repetition.
    ours = ~block_mask(torch.ones_like(noised.real), queries=40, repeats=25)
    order = torch.cat([torch.arange(40, 240), torch.arange(40)])
    for mask in ours[:, 0]:
        assert np.array_equal(mask[order][:, order], arrays["attention_mask"].astype(bool))
