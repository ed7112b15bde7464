"""DINO: queries with boxes from the best proposals and content of their own, noised objects in training, boxes that look forward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models.small_deformable_detr import SMALL, batch, memory_of
from torch import nn

from detrkit.errors import ConfigurationError
from detrkit.layers.denoising import ContrastiveDenoising
from detrkit.models.catalog import build, criterion_for
from detrkit.models.detector import Detector
from detrkit.models.dino import Config, MixedQueries
from detrkit.structures import Target


def small(**changes: Any) -> Detector:
    """In float64, with random parameters, since the box heads start at zero."""
    torch.manual_seed(0)
    model = build("dino-compact", classes=["a", "b", "c"], **(SMALL | {"denoising": 8} | changes))
    for part in (model.encoder, model.decoder, model.query_source, model.heads):
        for parameter in part.parameters():
            nn.init.normal_(parameter, std=0.2)
    return model.double()


def source(count: int = 3) -> MixedQueries:
    torch.manual_seed(0)
    denoising = ContrastiveDenoising(width=8, outputs=3, rows=4)
    queries = MixedQueries(count=count, width=8, outputs=3, denoising=denoising)
    for parameter in queries.parameters():
        nn.init.normal_(parameter, std=0.3)
    return queries.double().eval()


def some_targets() -> list[Target]:
    return [
        Target(torch.tensor([0, 1]), torch.rand(2, 4).double() * 0.4 + 0.2),
        Target(torch.tensor([1]), torch.rand(1, 4).double() * 0.4 + 0.2),
    ]


def test_boxes_come_from_the_proposals_that_are_surest_of_any_class() -> None:
    mixed, memory = source(), memory_of(2)
    queries, everything = mixed(memory), mixed.proposals(memory)
    for image in range(2):
        best = everything.logits[image].amax(-1).argsort(descending=True)[:3]
        assert queries.proposals.rows[image].tolist() == best.tolist()
        torch.testing.assert_close(queries.references[image], everything.boxes_cxcywh[image, best])
        torch.testing.assert_close(queries.proposals.chosen.logits[image], everything.logits[image, best])
    first = everything.logits[..., 0].argsort(descending=True)[:, :3]
    assert not torch.equal(queries.proposals.rows, first)  # which Deformable DETR would choose


def test_content_is_learned_for_each_rank() -> None:
    mixed = source()
    queries = mixed(memory_of(2))
    assert torch.equal(queries.content, mixed.content.weight.expand(2, -1, -1))
    assert queries.position is None
    few = source(count=500)
    assert few(memory_of(2)).content.shape[1] == memory_of(2).tokens.shape[1]


def test_only_chosen_proposals_learn_and_queries_teach_them_nothing() -> None:
    mixed, memory = source(), memory_of(2)
    memory.tokens.requires_grad_()
    queries = mixed(memory)
    assert not queries.references.requires_grad
    chosen = queries.proposals.chosen
    (gradient,) = torch.autograd.grad(chosen.logits.sum() + chosen.boxes_cxcywh.sum(), memory.tokens)
    for image in range(2):
        taught = gradient[image].abs().sum(-1).nonzero()[:, 0].tolist()
        assert set(taught) <= set(queries.proposals.rows[image].tolist())
        assert taught


def test_a_layer_learns_from_the_boxes_of_the_next() -> None:
    """Both layers share their heads, so what the first one learns shows at its own norm."""
    model = small(decoder_layers=2).eval()
    boxes = model(batch()).boxes_cxcywh
    first = model.decoder.layers[0].feed_forward.norm.weight
    (gradient,) = torch.autograd.grad(boxes[1].sum(), model.heads.box_head.output.bias, retain_graph=True)
    assert gradient.any()
    assert torch.autograd.grad(boxes[1].sum(), first)[0].any()


def test_predictions_come_from_normed_states_and_references_from_others() -> None:
    model = small().eval()
    stages = model.stages(batch())
    box_logits = model.heads.box_head(stages.decoded.states[0])
    start = stages.decoded.references[0]
    wanted = (box_logits + start.clamp(1e-3, 1 - 1e-3).logit()).sigmoid()
    torch.testing.assert_close(stages.output.boxes_cxcywh[0], wanted)
    assert not torch.allclose(stages.decoded.references[1], wanted, atol=1e-4)


def test_targets_change_nothing_in_evaluation() -> None:
    model, images = small().eval(), batch()
    with torch.no_grad():
        plain, told = model(images), model(images, some_targets())
    assert torch.equal(plain.logits, told.logits)
    assert told.training_groups == ()


def test_training_adds_noised_objects_that_no_query_sees() -> None:
    model, images = small(), batch()
    with pytest.raises(ValueError, match="training needs the targets"):
        model(images)
    model.backbone.eval()  # whose norms else count the batch
    output = model(images, some_targets())
    (group,) = output.training_groups
    assert (group.group.name, group.group.rows, group.group.repeats) == ("denoising", 8, 2)
    with torch.no_grad():
        torch.testing.assert_close(output.logits, model.eval()(images).logits)


def test_without_objects_noise_costs_nothing_and_still_takes_part() -> None:
    model = small()
    nothing = [Target(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4).double())] * 2
    losses = criterion_for(model)(model(batch(), nothing), nothing)
    noised = {name: value.item() for name, value in losses.terms.items() if name.startswith("denoising.")}
    assert len(noised) == 3 * model.card.config["decoder_layers"]
    assert set(noised.values()) == {0.0}
    losses.total.backward()
    assert model.query_source.denoising.embedding.weight.grad is not None


def test_a_crowded_image_gets_no_more_rows_than_set() -> None:
    model = small(denoising=8)
    crowd = [Target(torch.zeros(30, dtype=torch.int64), torch.rand(30, 4).double() * 0.4 + 0.2)] * 2
    (group,) = model(batch(), crowd).training_groups
    assert group.group.rows == 8
    assert (group.group.objects[:, :4] >= 0).all()
    assert (group.group.objects[:, 4:] == -1).all()  # the far copies restore nothing


def test_labels_without_a_code_are_refused() -> None:
    model = small()
    wrong = [Target(torch.tensor([3]), torch.full((1, 4), 0.4).double()), some_targets()[1]]
    with pytest.raises(ValueError, match=r"^target 0 has a label outside 0..2"):
        criterion_for(model)(model(batch(), wrong), wrong)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"denoising": 1}, r"^denoising must be at least 2, not 1$"),
        ({"label_codes": -1}, r"^label_codes must be at least 0, not -1$"),
        ({"box_noise": -0.5}, r"^box_noise must be at least 0, not -0.5$"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Config(**settings)


def test_fewer_codes_than_classes_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"^denoising needs a code for each of 3 classes, not 2 codes$"):
        build("dino-compact", classes=["a", "b", "c"], label_codes=2)
