"""Sets of predictions beside the decoder's layers: proposals and training groups."""

from __future__ import annotations

import dataclasses
import warnings
from typing import ClassVar

import pytest
import torch
import torchvision
from losses.predictions import CLASSES, QUERIES, corners, objects, prediction, shown
from torch import Tensor

from detrkit.losses.criterion import SetCriterion, focal_criterion
from detrkit.losses.sets import ChosenProposals, KnownGroup, PredictionSet, RepeatedGroup
from detrkit.models import deformable_detr
from detrkit.models.catalog import build, criterion_for
from detrkit.structures import GroupOutput, ImageBatch, LayerOutput, Output, Proposals, QueryGroup, Target

SMALL = {"width": 64, "hidden": 64, "attention_heads": 4, "encoder_layers": 1, "decoder_layers": 2, "queries": 5}


class TestProposals:
    """An encoder's proposals are matched to the same objects, all as class 0, and have their own group of terms."""

    CONFIG = deformable_detr.Config(class_count=CLASSES, queries=QUERIES, decoder_layers=2, two_stage=True)

    def output(self, tokens: int = 9) -> Output:
        layers = prediction(2, layers=2, classes=CLASSES - 1)
        logits = torch.randn(2, tokens, CLASSES, dtype=torch.float64, requires_grad=True)
        boxes = (torch.rand(2, tokens, 4, dtype=torch.float64) * 0.5 + 0.2).requires_grad_()
        return Output(layers.logits, layers.boxes_cxcywh, Proposals(LayerOutput(logits, boxes)))

    def alone(self, output: Output, targets: list[Target]) -> dict[str, Tensor]:
        """The proposals as the only layer of a one-stage model."""
        assert output.proposals is not None
        config = dataclasses.replace(self.CONFIG, decoder_layers=1, two_stage=False)
        layer = Output(output.proposals.all.logits[None], output.proposals.all.boxes_cxcywh[None])
        return deformable_detr.criterion(config, None)(layer, targets).terms

    def test_every_object_counts_as_class_0(self) -> None:
        output, targets = self.output(), [objects(3), objects(1)]
        losses = deformable_detr.criterion(self.CONFIG, None)(output, targets)
        classless = [Target(torch.zeros_like(target.labels), target.boxes_cxcywh) for target in targets]
        wanted = self.alone(output, classless)
        assert not torch.equal(wanted["layers.0.class"], self.alone(output, targets)["layers.0.class"])
        for name in ("class", "l1", "giou"):
            torch.testing.assert_close(losses.terms[f"proposals.{name}"], wanted[f"layers.0.{name}"])
        layers = Output(output.logits, output.boxes_cxcywh)
        one_stage = deformable_detr.criterion(dataclasses.replace(self.CONFIG, two_stage=False), None)(layers, targets)
        assert losses.terms.keys() == one_stage.terms.keys() | {f"proposals.{name}" for name in ("class", "l1", "giou")}
        for name, value in one_stage.terms.items():
            torch.testing.assert_close(losses.terms[name], value)
        more = sum(
            weight * losses.terms[f"proposals.{name}"]
            for name, weight in {"class": 2.0, "l1": 5.0, "giou": 2.0}.items()
        )
        torch.testing.assert_close(losses.total, one_stage.total + more)

    def test_without_objects_only_scores_learn(self) -> None:
        output = self.output()
        assert output.proposals is not None
        losses = deformable_detr.criterion(self.CONFIG, None)(output, [objects(0), objects(0)])
        assert losses.terms["proposals.l1"].item() == losses.terms["proposals.giou"].item() == 0
        scores, boxes = torch.autograd.grad(
            losses.total, (output.proposals.all.logits, output.proposals.all.boxes_cxcywh)
        )
        assert (scores > 0).all()
        assert not boxes.any()


class TestTrainingGroups:
    """Queries whose objects are known are not matched; their terms have the group's name, and repetitions are averaged."""

    WEIGHTS: ClassVar = {"class": 2.0, "l1": 5.0, "giou": 2.0}

    def criterion(self, *sets: PredictionSet) -> SetCriterion:
        return focal_criterion(
            class_count=CLASSES, layers=2, cost_weights=self.WEIGHTS, loss_weights=self.WEIGHTS, sets=sets
        )

    def test_terms_by_hand(self) -> None:
        queries, group_queries = (prediction(2, layers=2, classes=CLASSES - 1) for _ in range(2))
        targets = [objects(2), objects(1)]
        rows = torch.tensor([[1, 0, -1, 0, 1], [0, -1, -1, 0, -1]])
        group = QueryGroup("denoising", QUERIES, rows, repeats=2)
        part = GroupOutput(group, Output(group_queries.logits, group_queries.boxes_cxcywh))
        criterion = self.criterion(KnownGroup("denoising"))
        alone = criterion(queries, targets)
        losses = criterion(dataclasses.replace(queries, training_groups=(part,)), targets)
        answers = [(0, 0, 1), (0, 1, 0), (0, 3, 0), (0, 4, 1), (1, 0, 0), (1, 3, 0)]  # image, query, object
        total = alone.total
        for layer in range(2):
            wanted = torch.zeros(2, QUERIES, CLASSES, dtype=torch.float64)
            distance = overlap = torch.zeros((), dtype=torch.float64)
            for image, query, entry in answers:
                box, truth = group_queries.boxes_cxcywh[layer, image, query], targets[image].boxes_cxcywh[entry]
                wanted[image, query, targets[image].labels[entry]] = 1
                distance = distance + (box - truth).abs().sum()
                overlap = overlap + torchvision.ops.generalized_box_iou_loss(corners(box), corners(truth))
            focal = torchvision.ops.sigmoid_focal_loss(group_queries.logits[layer], wanted, reduction="sum")
            for name, value, weight in (("class", focal, 2), ("l1", distance, 5), ("giou", overlap, 2)):
                value = value / (3 * 2)  # three objects, each twice
                torch.testing.assert_close(
                    losses.terms[f"denoising.layers.{layer}.{name}"], value, rtol=1e-6, atol=1e-9
                )
                total = total + weight * value
        torch.testing.assert_close(losses.total, total, rtol=1e-6, atol=1e-9)
        assert shown(losses) == shown(alone)

    def test_without_objects_all_of_it_is_background(self) -> None:
        queries, group_queries = (prediction(1, layers=2, classes=CLASSES - 1) for _ in range(2))
        group = QueryGroup("denoising", QUERIES, torch.full((1, QUERIES), -1))
        output = dataclasses.replace(
            queries, training_groups=(GroupOutput(group, Output(group_queries.logits, group_queries.boxes_cxcywh)),)
        )
        terms = self.criterion(KnownGroup("denoising"))(output, [objects(0)]).terms
        assert terms["denoising.layers.1.l1"] == terms["denoising.layers.1.giou"] == 0
        assert terms["denoising.layers.1.class"] > 0

    def test_a_model_learns_from_them(self) -> None:
        model = build("light-detr-compact", classes=["a", "b", "c"], denoising=6, **SMALL).train()
        targets = [Target(torch.tensor([1]), torch.tensor([[0.5, 0.5, 0.3, 0.4]]))]
        losses = criterion_for(model)(model(ImageBatch(torch.rand(1, 3, 64, 64)), targets), targets)
        groups = [name for name in losses.terms if name.startswith("denoising.")]
        assert groups == [f"denoising.layers.{layer}.{name}" for name in ("class", "l1", "giou") for layer in range(2)]
        sum(losses.terms[name] for name in groups).backward()
        codes = model.query_source.denoising.embedding.weight.grad
        assert codes.abs().sum(1).gt(0)[1]

    def test_rows_that_do_not_count(self) -> None:
        queries, group_queries = (prediction(1, layers=2, classes=CLASSES - 1) for _ in range(2))
        counted = torch.tensor([[True, True, False, False, True]])
        group = QueryGroup("denoising", QUERIES, torch.tensor([[0, -1, -1, -1, 1]]), counted=counted)
        output = dataclasses.replace(
            queries, training_groups=(GroupOutput(group, Output(group_queries.logits, group_queries.boxes_cxcywh)),)
        )
        losses = self.criterion(KnownGroup("denoising"))(output, [objects(2)])
        sum(value for name, value in losses.terms.items() if name.startswith("denoising")).backward()
        assert not group_queries.logits.grad[:, ~counted].any()
        assert group_queries.logits.grad[:, counted].all()

    @pytest.mark.parametrize("counts", [(2, 1), (0, 0)], ids=str)
    def test_a_repeated_group_is_matched_to_repeated_targets(self, counts: tuple[int, int]) -> None:
        queries, group_queries = (prediction(2, layers=2, classes=CLASSES - 1) for _ in range(2))
        targets = [objects(count) for count in counts]
        part = GroupOutput(
            QueryGroup("one2many", QUERIES, repeats=2), Output(group_queries.logits, group_queries.boxes_cxcywh)
        )
        criterion = self.criterion(RepeatedGroup("one2many"))
        losses = criterion(dataclasses.replace(queries, training_groups=(part,)), targets)
        twice = [Target(torch.cat([target.labels] * 2), torch.cat([target.boxes_cxcywh] * 2)) for target in targets]
        wanted = self.criterion()(group_queries, twice).terms
        for name, value in wanted.items():
            torch.testing.assert_close(losses.terms[f"one2many.{name}"], value)
        assert criterion.weights.keys() == losses.terms.keys()

    def test_copies_for_which_there_are_no_queries_are_said_once(self) -> None:
        queries, group_queries = (prediction(2, layers=2, classes=CLASSES - 1) for _ in range(2))
        group = QueryGroup("one2many", QUERIES, repeats=3)
        part = GroupOutput(group, Output(group_queries.logits, group_queries.boxes_cxcywh))
        output = dataclasses.replace(queries, training_groups=(part,))
        criterion = self.criterion(RepeatedGroup("one2many"))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            criterion(output, [objects(1), objects(0)])  # three copies, five queries
            assert caught == []
            for _ in range(2):
                criterion(output, [objects(2), objects(1)])
        assert [str(warning.message) for warning in caught] == [
            "an image has 2 objects, but the training group 'one2many' has only 5 queries for 3 copies of each: 1 copies are left out; "
            "build the model with more of these queries or fewer repeats"
        ]
        assert caught[0].filename == __file__

    @pytest.mark.parametrize(("rows", "is_said"), [(QUERIES, False), (3, True)])
    def test_groups_that_are_smaller_than_the_models_queries_say_what_they_leave_out(
        self, rows: int, is_said: bool
    ) -> None:
        queries, group_queries = (prediction(1, layers=2, classes=CLASSES - 1) for _ in range(2))
        part = GroupOutput(
            QueryGroup("group_1", rows),
            Output(group_queries.logits[:, :, :rows], group_queries.boxes_cxcywh[:, :, :rows]),
        )
        criterion = self.criterion(RepeatedGroup("group_1"))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            criterion.matched(dataclasses.replace(queries, training_groups=(part,)), [objects(4)])
        said = [
            "an image has 4 objects, but the training group 'group_1' has only 3 queries, which leaves 1 of them out; use larger images or fewer "
            "groups"
        ]
        assert [str(warning.message) for warning in caught] == (said if is_said else [])

    def test_where_queries_run_out_each_learns_a_copy(self) -> None:
        queries, group_queries = (prediction(1, layers=2, classes=CLASSES - 1) for _ in range(2))
        group = QueryGroup("one2many", QUERIES, repeats=4)
        part = GroupOutput(group, Output(group_queries.logits, group_queries.boxes_cxcywh))
        criterion, targets = self.criterion(RepeatedGroup("one2many")), [objects(2)]
        with pytest.warns(UserWarning, match="3 copies are left out"):
            (_, matched) = criterion.matched(dataclasses.replace(queries, training_groups=(part,)), targets)[1]
        assert matched.matches.queries.tolist() == [list(range(QUERIES))] * 2
        assert matched.divisor == 8  # as many as there are copies, learned or not

    def test_outside_of_training_there_are_none(self) -> None:
        queries, targets = prediction(1, layers=2, classes=CLASSES - 1), [objects(1)]
        losses = self.criterion(KnownGroup("denoising"), RepeatedGroup("one2many"))(queries, targets)
        assert losses.terms == self.criterion()(queries, targets).terms


class TestChosenProposals:
    """Proposals that became queries are matched to objects with their classes."""

    def test_they_are_a_layer_of_their_own(self) -> None:
        queries = prediction(2, layers=2, classes=CLASSES - 1)
        chosen, targets = prediction(2, layers=1, classes=CLASSES - 1), [objects(2), objects(1)]
        (layer,) = chosen.layers
        output = dataclasses.replace(queries, proposals=Proposals(all=None, chosen=layer))
        weights = {"class": 2.0, "l1": 5.0, "giou": 2.0}
        numbers = {"class_count": CLASSES, "cost_weights": weights, "loss_weights": weights}
        losses = focal_criterion(layers=2, **numbers, sets=[ChosenProposals()])(output, targets)
        wanted = focal_criterion(layers=1, **numbers)(chosen, targets).terms
        for name in weights:
            torch.testing.assert_close(losses.terms[f"proposals.{name}"], wanted[f"layers.0.{name}"])
