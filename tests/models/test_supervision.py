"""Supervision that models of earlier papers take in training: noised objects, queries for one-to-many matching, groups of queries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import detrkit
from detrkit.errors import ConfigurationError, OptionError
from detrkit.losses.sets import repeat_target
from detrkit.models.catalog import criterion_for
from detrkit.models.detector import Detector
from detrkit.models.supervision import Denoising, Groups, OneToMany, Supervision, parse, supervise
from detrkit.structures import ImageBatch, Output, Target

SMALL = {"width": 64, "hidden": 48, "attention_heads": 4, "encoder_layers": 1, "decoder_layers": 2, "queries": 5}
LEARNED = ("detr-compact", "conditional-detr-compact", "smca-detr-compact", "dab-detr-compact")
SPARSE = ("deformable-detr-compact", "deformable-detr-compact-two-stage", "dab-deformable-detr-compact")
WITH_REFERENCES = ("conditional-detr-compact", "dab-detr-compact", *SPARSE)
KINDS = (OneToMany(queries=9, repeats=3), Groups(count=3))
IMAGES = torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(1))
TARGETS = [
    Target(torch.tensor([0, 2]), torch.tensor([[0.3, 0.4, 0.2, 0.3], [0.7, 0.6, 0.3, 0.5]])),
    Target(torch.tensor([1]), torch.tensor([[0.5, 0.5, 0.4, 0.2]])),
]


def small(variant: str, supervision: Supervision | None = None, **changes: Any) -> Detector:
    """Without dropout, and with fixed norms of the backbone, so that training adds nothing but the training queries."""
    torch.manual_seed(0)
    model = detrkit.build(variant, classes=["a", "b", "c"], **(SMALL | {"dropout": 0.0} | changes))
    if supervision is not None:
        supervise(model, supervision)
    model.train().backbone.eval()
    return model


@pytest.mark.parametrize("variant", [*LEARNED, *SPARSE])
@pytest.mark.parametrize("supervision", KINDS, ids=lambda each: each.name)
def test_the_models_own_queries_never_notice(variant: str, supervision: Supervision) -> None:
    plain, more = small(variant), small(variant, supervision)
    own, other = (model(ImageBatch(IMAGES), TARGETS) for model in (plain, more))
    torch.testing.assert_close(other.logits, own.logits)
    torch.testing.assert_close(other.boxes_cxcywh, own.boxes_cxcywh)
    rows = [(each.group.name, each.group.rows, each.group.repeats) for each in other.training_groups]
    assert (
        rows
        == {
            "one-to-many": [("one_to_many", 9, 3)],
            "groups": [("group_1", 5, 1), ("group_2", 5, 1)],
        }[supervision.name]
    )
    assert not torch.equal(other.training_groups[0].output.logits[:, :, :5], own.logits)


@pytest.mark.parametrize(
    "changes", [{"queries": 12, "patterns": 3}, {"queries": 9, "centers": "grid"}], ids=["patterns", "grid"]
)
def test_groups_are_arranged_as_the_queries_are(changes: dict[str, Any]) -> None:
    model = small("dab-detr-compact", Groups(3), **changes)
    own = model.query_source
    for source in model.supervision.sources:
        for name, values in own.state_dict().items():
            assert source.state_dict()[name].shape == values.shape
    if "centers" in changes:
        assert all(torch.equal(source.center_logits, own.center_logits) for source in model.supervision.sources)
    output = model(ImageBatch(IMAGES), TARGETS)
    assert [each.output.logits.shape[2] for each in output.training_groups] == [changes["queries"]] * 2


def test_what_is_added_has_the_type_of_the_model() -> None:
    model = detrkit.build("conditional-detr-compact", classes=["a", "b", "c"], **SMALL).double()
    supervise(model, "denoising")
    assert {value.dtype for value in model.supervision.parameters()} == {torch.float64}
    assert model(ImageBatch(IMAGES.double()), TARGETS).logits.dtype == torch.float64


@pytest.mark.parametrize("variant", WITH_REFERENCES)
def test_noised_objects_follow_and_no_query_sees_them(variant: str) -> None:
    plain, more = small(variant), small(variant, Denoising(copies=9))
    own, other = (model(ImageBatch(IMAGES), TARGETS) for model in (plain, more))
    torch.testing.assert_close(other.logits, own.logits)
    (group,) = other.training_groups
    assert (group.group.name, group.group.rows, group.group.repeats) == ("denoising", 8, 2)
    assert group.group.objects[0].tolist() == [0, 1, -1, -1, 0, 1, -1, -1]


@pytest.mark.parametrize("variant", [*LEARNED, *SPARSE])
def test_one_to_many_queries_learn_repeated_objects(variant: str) -> None:
    model = small(variant, OneToMany(queries=9, repeats=3))
    plain = small(variant)
    output = model(ImageBatch(IMAGES), TARGETS)
    losses = criterion_for(model)(output, TARGETS)
    own = criterion_for(plain)(plain(ImageBatch(IMAGES), TARGETS), TARGETS)
    group = output.training_groups[0].output
    repeated = [repeat_target(target, 3) for target in TARGETS]
    queries = Output(group.logits, group.boxes_cxcywh, output.proposals)
    wanted = criterion_for(plain)(queries, repeated)
    for layer in range(2):
        for term in ("class", "l1", "giou"):
            name = f"layers.{layer}.{term}"
            torch.testing.assert_close(losses.terms[name], own.terms[name])
            torch.testing.assert_close(losses.terms[f"one_to_many.{name}"], wanted.terms[name])
    more = sum(criterion_for(model).weights[name] * value for name, value in losses.terms.items() if "one_to" in name)
    torch.testing.assert_close(losses.total, own.total + more)


def test_the_loss_of_groups_is_their_mean() -> None:
    variant = "deformable-detr-compact-two-stage"
    model, plain = small(variant, Groups(count=3)), small(variant)
    weights, own = criterion_for(model).weights, criterion_for(plain).weights
    for name, weight in own.items():
        if name.startswith("layers."):
            each = [weights[f"{group}{name}"] for group in ("", "group_1.", "group_2.")]
            assert each == pytest.approx([weight / 3] * 3)
        else:
            assert weights[name] == weight
    output = model(ImageBatch(IMAGES), TARGETS)
    losses = criterion_for(model)(output, TARGETS)
    assert losses.total.item() == pytest.approx(
        sum(weights[name] * value.item() for name, value in losses.terms.items()), rel=1e-5
    )


def test_further_proposals_are_dealt_out_in_turn() -> None:
    model = small("deformable-detr-compact-two-stage", Groups(count=3))
    stages = model.stages(ImageBatch(IMAGES), TARGETS)
    proposals = stages.output.proposals.all
    best = proposals.logits[..., 0].argsort(descending=True)
    starts = stages.decoded.references[0]
    for place, first in ((0, range(5)), (5, range(5, 15, 2)), (10, range(6, 15, 2))):
        for image in range(2):
            wanted = proposals.boxes_cxcywh[image, best[image, list(first)]]
            torch.testing.assert_close(starts[image, place : place + 5], wanted)


def test_too_few_proposals_make_smaller_groups_or_none() -> None:
    variant = "deformable-detr-compact-two-stage"
    tokens = sum(height * width for height, width in small(variant).stages(ImageBatch(IMAGES)).memory.level_sizes)
    model = small(variant, OneToMany(queries=10_000))
    assert model(ImageBatch(IMAGES), TARGETS).training_groups[0].group.rows == tokens - 5
    model = small(variant, Groups(count=3), queries=tokens)
    with pytest.raises(ConfigurationError, match=rf"^an image with {tokens} proposals has none left for 2 groups"):
        model(ImageBatch(IMAGES), TARGETS)


@pytest.mark.parametrize("supervision", [Denoising(copies=8), *KINDS], ids=lambda each: each.name)
def test_nothing_remains_after_training(supervision: Supervision, tmp_path: Path) -> None:
    variant = "dab-detr-compact"
    plain, model = small(variant), small(variant, supervision)
    assert plain.supervision is None
    assert model.state_dict().keys() > plain.state_dict().keys()
    criterion_for(model)(model(ImageBatch(IMAGES), TARGETS), TARGETS).total.backward()
    assert all(value.grad is not None for value in model.supervision.parameters())
    model.eval(), plain.eval()
    with torch.no_grad():
        wanted, found = plain(ImageBatch(IMAGES)), model(ImageBatch(IMAGES))
    assert torch.equal(found.logits, wanted.logits)
    assert found.training_groups == ()
    file = detrkit.save(model, tmp_path / "model.safetensors")
    assert load_file(file).keys() == plain.state_dict().keys()
    loaded = detrkit.load(file)
    assert loaded.supervision is None
    with torch.no_grad():
        assert torch.equal(loaded(ImageBatch(IMAGES)).logits, wanted.logits)


def test_without_objects_everything_still_takes_part() -> None:
    nothing = [Target(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))] * 2
    for supervision in (Denoising(copies=8), *KINDS):
        model = small("dab-detr-compact", supervision)
        losses = criterion_for(model)(model(ImageBatch(IMAGES), nothing), nothing)
        assert all(value == 0 for name, value in losses.terms.items() if name.startswith("denoising."))
        losses.total.backward()
        assert all(value.grad is not None for value in model.supervision.parameters())


@pytest.mark.parametrize(
    ("variant", "supervision", "message"),
    [
        ("detr-compact", "denoising", r"^detr-compact has no query source to which noised points or boxes can be added, which denoising needs: .* one-to-many or groups$"),
        ("sam-detr-compact", "groups", r"^sam-detr-compact has queries to which no others can be added: "),
        ("anchor-detr-compact", "one-to-many", r"^anchor-detr-compact has queries to which no others can be added: "),
        ("light-detr-compact", "groups", r"^light-detr-compact brings training queries of its own: train it without more supervision$"),
        ("dino-compact", "denoising", r"^dino-compact brings training queries of its own"),
        ("detr-r50-panoptic", "groups", r"^detr-r50-panoptic has a forward pass of its own, to which no supervision can be added$"),
    ],
)  # fmt: skip
def test_models_that_cannot_take_it(variant: str, supervision: str, message: str) -> None:
    with torch.device("meta"):
        model = detrkit.build(variant)
    with pytest.raises(ConfigurationError, match=message):
        supervise(model, supervision)


@pytest.mark.parametrize(
    ("text", "wanted", "whole"),
    [
        ("denoising", Denoising(), "denoising,copies=200,label_noise=0.25,box_noise=1.0"),
        ("denoising, copies=60,box_noise=.4", Denoising(60, box_noise=0.4), "denoising,copies=60,label_noise=0.25,box_noise=0.4"),
        ("one-to-many", OneToMany(), "one-to-many,repeats=6"),
        ("one-to-many,queries=30,repeats=2", OneToMany(30, 2), "one-to-many,queries=30,repeats=2"),
        ("groups,count=4", Groups(4), "groups,count=4"),
    ],
)  # fmt: skip
def test_supervision_in_words(text: str, wanted: Supervision, whole: str) -> None:
    assert parse(text) == wanted
    assert str(wanted) == whole
    assert parse(whole) == wanted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("denoise", r"^there is no supervision 'denoise': did you mean 'denoising'"),
        ("groups,counts=3", r"^supervision groups has no setting 'counts': did you mean 'count'"),
        ("groups,count=1", r"^supervision groups needs count of at least 2, not 1$"),
        ("groups,count=2.5", r"^supervision groups needs a whole number for count, not '2.5'$"),
        ("denoising,box_noise=much", r"^supervision denoising needs a number for box_noise, not 'much'$"),
        ("denoising,label_noise=5", r"^supervision denoising needs label_noise of at most 1, not 5.0$"),
        ("denoising,box_noise=inf", r"^supervision denoising needs box_noise of at most 10, not inf$"),
        ("denoising,copies=1", r"^supervision denoising needs copies of at least 2, not 1$"),
    ],
)
def test_words_that_say_nothing(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        parse(text)
