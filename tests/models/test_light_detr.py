"""Light DETR: distinct proposals with learned content, queries that see how their boxes lie, and noised objects in training."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from models.small_deformable_detr import CELLS, SMALL, batch, memory_of
from torch import Tensor, nn

from detrkit.errors import ConfigurationError
from detrkit.layers.distinct import best_distinct
from detrkit.layers.position_encoding import sine_code
from detrkit.models.catalog import build, criterion_for
from detrkit.models.detector import Detector
from detrkit.models.light_detr import Config, DistinctQueries
from detrkit.structures import Target


def small(**changes: Any) -> Detector:
    """In float64 and eval mode, with random parameters, since the box heads start at zero."""
    torch.manual_seed(0)
    model = build("light-detr-compact", classes=["a", "b", "c"], **(SMALL | {"denoising": 8} | changes))
    for part in (model.encoder, model.decoder, model.query_source, model.heads):
        for parameter in part.parameters():
            nn.init.normal_(parameter, std=0.2)
    return model.double().eval()


def source(count: int = 3, overlap: float = 0.8) -> DistinctQueries:
    torch.manual_seed(0)
    queries = DistinctQueries(count=count, width=8, outputs=3, distinct_overlap=overlap, denoising=4)
    for parameter in queries.parameters():
        nn.init.normal_(parameter, std=0.3)
    return queries.double().eval()


def some_targets() -> list[Target]:
    return [
        Target(torch.tensor([0, 1]), torch.rand(2, 4).double() * 0.4 + 0.2),
        Target(torch.tensor([1]), torch.rand(1, 4).double() * 0.4 + 0.2),
    ]


@pytest.mark.parametrize("overlap", [0.0, 1.0, 1.5])
def test_an_overlap_is_an_iou(overlap: float) -> None:
    with pytest.raises(ConfigurationError, match=rf"^distinct_overlap must be an IoU between 0 and 1, not {overlap}$"):
        Config(distinct_overlap=overlap)


def test_denoising_has_a_pair_at_least() -> None:
    with pytest.raises(ConfigurationError, match=r"^denoising must be at least 2, not 1$"):
        Config(denoising=1)


def test_queries_carry_content_by_their_rank_and_a_code_of_their_box() -> None:
    queries_of, memory = source(), memory_of(2)
    queries = queries_of(memory)
    for image in range(2):
        boxes = queries.proposals.all.boxes_cxcywh[image, queries.proposals.rows[image]]
        assert torch.equal(queries.references[image], boxes)
        code = [sine_code(boxes[:, side] * 2 * math.pi, channels=4) for side in range(4)]  # x, y, width, height
        wanted = queries_of.position_norm(queries_of.position_projection(torch.cat(code, dim=-1).double()))
        torch.testing.assert_close(queries.position[image], wanted)
        assert torch.equal(queries.content[image], queries_of.content.weight)
    queries.content.sum().backward()
    assert torch.equal(queries_of.content.weight.grad, torch.full((3, 8), 2.0, dtype=torch.float64))


def test_queries_start_from_proposals_that_repeat_no_better_one() -> None:
    queries_of, memory = source(count=5, overlap=0.3), memory_of(2)
    with torch.no_grad():
        queries_of.proposals.box_head.output.bias[2:] = 3.0  # large boxes, many of which overlap
    queries = queries_of(memory)
    scores, boxes = queries.proposals.all.logits[..., 0], queries.proposals.all.boxes_cxcywh
    best = best_distinct(scores, boxes, count=5, overlap=0.3)
    assert not torch.equal(best, scores.topk(5).indices)
    assert torch.equal(queries.proposals.rows, best)


def test_more_queries_than_tokens() -> None:
    queries = source(count=30)(memory_of(2))
    assert queries.content.shape == queries.position.shape == (2, CELLS, 8)
    assert queries.proposals.rows.sort().values.tolist() == [list(range(CELLS))] * 2


def test_relations_of_the_boxes_that_a_layer_starts_from_bias_its_queries() -> None:
    model = small()
    biases: list[Tensor] = []
    for layer in model.decoder.layers:
        layer.self_attention.register_forward_pre_hook(lambda _, arguments: biases.append(arguments[3]))
    stages = model.stages(batch())
    assert len(biases) == 3
    for bias, references in zip(biases, stages.decoded.references, strict=True):
        torch.testing.assert_close(bias, model.decoder.relation(references))
    stages.output.logits.sum().backward()
    assert model.decoder.relation.projection.weight.grad.any()


def test_relations_begin_as_if_there_were_none() -> None:
    torch.manual_seed(0)
    model = build("light-detr-compact").eval()
    stages = model.stages(batch().to(dtype=torch.float32))
    assert not model.decoder.query_mask(stages.queries, stages.queries.references).any()


def test_noised_objects_do_not_change_what_queries_find() -> None:
    model, targets, images = small().train(), some_targets(), batch()
    for module in model.backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # its running averages would change between the two passes
    output = model(images, targets)
    alone = model.eval()(images, targets)
    assert alone.training_groups == ()
    torch.testing.assert_close(output.logits, alone.logits)
    torch.testing.assert_close(output.boxes_cxcywh, alone.boxes_cxcywh)
    (part,) = output.training_groups
    assert part.group.rows == 8
    assert part.output.logits.shape == (3, 2, 8, output.logits.shape[-1])
    assert part.output.boxes_cxcywh.shape == (3, 2, 8, 4)
    torch.testing.assert_close(part.group.objects, torch.tensor([[0, 1, -1, -1] * 2, [0, -1, -1, -1] * 2]))


def test_training_without_targets_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^training needs the targets to make noised objects of"):
        small().train()(batch())


def test_noised_objects_see_the_queries_and_their_own_repetition() -> None:
    model = small().train()
    targets = [Target(torch.tensor([0, 1]), torch.rand(2, 4).double() * 0.4 + 0.2) for _ in range(2)]
    queries = model.stages(batch(), targets).queries
    memory = model.stages(batch(), targets).memory
    queries.content.retain_grad()
    states = model.decoder(queries, memory, model.heads).states
    states[-1, 0, 5 + 4 + 1].sum().backward()  # the second row of the second repetition
    assert queries.content.grad is not None
    visible = queries.content.grad[0].abs().sum(-1) > 0
    assert visible.tolist() == [True] * 5 + [False] * 4 + [True] * 4


def test_noised_objects_have_losses_of_their_own() -> None:
    model = small().train()
    targets = some_targets()
    losses = criterion_for(model)(model(batch(), targets), targets)
    names = {name.rsplit(".", 1)[0] for name in losses.terms}
    layers = {f"layers.{layer}" for layer in range(3)}
    assert names == layers | {"proposals"} | {f"denoising.{name}" for name in layers}


def test_a_crowded_image_divides_by_the_objects_that_are_restored() -> None:
    """Eight rows hold one repetition of four objects: of ten objects four are restored, of one object one."""
    model = small().train()
    objects = [10, 1]
    targets = [Target(torch.zeros(n, dtype=torch.int64), torch.rand(n, 4).double() * 0.4 + 0.2) for n in objects]
    output = model(batch(), targets)
    (part,) = output.training_groups
    assert (part.group.objects >= 0).sum(1).tolist() == [4, 1]
    criterion = criterion_for(model)
    restored = [
        (image, row, int(place))
        for image, rows in enumerate(part.group.objects)
        for row, place in enumerate(rows)
        if place >= 0
    ]
    boxes = part.output.boxes_cxcywh[-1]
    distance = sum(
        (boxes[image, row] - targets[image].boxes_cxcywh[place]).abs().sum() for image, row, place in restored
    )
    torch.testing.assert_close(criterion(output, targets).terms["denoising.layers.2.l1"], distance / 5)
