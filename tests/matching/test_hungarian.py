"""The matcher against brute force over every assignment, and what it says when a cost is not a number."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from detrkit.errors import DetrkitError, NonFiniteError
from detrkit.matching.costs import giou_cost, l1_cost, pad_targets, softmax_class_cost
from detrkit.matching.hungarian import HungarianMatcher, Matches, known_matches
from detrkit.matching.transfer import HostTask, run_together
from detrkit.structures import Output, Target

TERMS = {"class": (softmax_class_cost, 1.0), "l1": (l1_cost, 5.0), "giou": (giou_cost, 2.0)}


def prediction(*, layers: int = 2, images: int = 1, queries: int = 4) -> Output:
    shape = (layers, images, queries)
    return Output(torch.randn(*shape, 6), torch.rand(*shape, 4) * 0.5 + 0.2)


def objects(count: int) -> Target:
    return Target(torch.randint(0, 5, (count,)), torch.rand(count, 4) * 0.5 + 0.2)


def cost_matrices(output: Output, target: Target, image: int) -> Tensor:
    """(L, Q, N) for one image."""
    alone = Output(output.logits[:, image : image + 1], output.boxes_cxcywh[:, image : image + 1])
    padded = pad_targets([target], alone.boxes_cxcywh)
    total = softmax_class_cost(alone, padded) + 5 * l1_cost(alone, padded) + 2 * giou_cost(alone, padded)
    return total[:, 0]


def assert_least_cost(pairs: set[tuple[int, int]], costs: Tensor) -> None:
    """Whether as many as possible are matched, each once, and no assignment costs less; any of several equally good ones is fine."""
    for side, count in enumerate(costs.shape):
        assert len({pair[side] for pair in pairs}) == len(pairs) == min(costs.shape), count
    assert sum(costs[pair].item() for pair in pairs) == pytest.approx(least_cost(costs), abs=1e-5)


def least_cost(costs: Tensor) -> float:
    """The cost of the best assignment of a (Q, N) matrix, found by trying all."""
    queries, count = costs.shape
    if queries >= count:
        tries = (
            [(query, entry) for entry, query in enumerate(chosen)]
            for chosen in itertools.permutations(range(queries), count)
        )
    else:
        tries = (
            [(query, entry) for query, entry in enumerate(chosen)]
            for chosen in itertools.permutations(range(count), queries)
        )
    return min(sum(costs[pair].item() for pair in assignment) for assignment in tries)


def pairs_of(matches: Matches, layer: int, image: int) -> set[tuple[int, int]]:
    here = matches.images[layer] == image
    return set(zip(matches.queries[layer][here].tolist(), matches.objects[layer][here].tolist(), strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_every_layer_and_image_has_the_least_cost_of_all(seed: int) -> None:
    torch.manual_seed(seed)
    output, targets = prediction(layers=3, images=4, queries=5), [objects(count) for count in (3, 0, 5, 1)]
    matches = HungarianMatcher(TERMS)(output, targets)
    assert matches.layers.shape == (3, 9)
    assert matches.layers.tolist() == [[layer] * 9 for layer in range(3)]
    first = torch.tensor([0, 3, 3, 8])
    assert torch.equal(matches.batch_objects, first[matches.images] + matches.objects)
    for image, target in enumerate(targets):
        costs = cost_matrices(output, target, image)
        for layer in range(3):
            assert_least_cost(pairs_of(matches, layer, image), costs[layer])


def test_a_matching_that_no_greedy_choice_finds() -> None:
    # Query 0 is the best for both objects; giving it to object 0 would leave object 1 with a query that is far away.
    boxes = torch.tensor([[[[0.50, 0.5, 0.2, 0.2], [0.45, 0.5, 0.2, 0.2], [0.1, 0.1, 0.2, 0.2]]]])
    target = Target(torch.tensor([0, 0]), torch.tensor([[0.49, 0.5, 0.2, 0.2], [0.55, 0.5, 0.2, 0.2]]))
    matches = HungarianMatcher({"l1": (l1_cost, 1.0)})(Output(torch.zeros(1, 1, 3, 2), boxes), [target])
    assert pairs_of(matches, 0, 0) == {(0, 1), (1, 0)}


def test_pairs_come_in_the_order_of_images_and_queries() -> None:
    output, targets = prediction(layers=2, images=3, queries=6), [objects(4), objects(5), objects(2)]
    matches = HungarianMatcher(TERMS)(output, targets)
    for layer in range(2):
        pairs = list(zip(matches.images[layer].tolist(), matches.queries[layer].tolist(), strict=True))
        assert pairs == sorted(pairs)
        assert len(set(pairs)) == 11


def test_weights_decide_which_term_counts() -> None:
    logits = torch.tensor([[[[9.0, 0.0], [0.0, 9.0]]]])
    boxes = torch.tensor([[[[0.2, 0.2, 0.1, 0.1], [0.8, 0.8, 0.1, 0.1]]]])
    target = Target(torch.tensor([0]), torch.tensor([[0.8, 0.8, 0.1, 0.1]]))  # query 0's class at query 1's place
    by_class = HungarianMatcher({"class": (softmax_class_cost, 1.0), "l1": (l1_cost, 0.1)})
    by_place = HungarianMatcher({"class": (softmax_class_cost, 0.1), "l1": (l1_cost, 1.0)})
    assert by_class(Output(logits, boxes), [target]).queries.tolist() == [[0]]
    assert by_place(Output(logits, boxes), [target]).queries.tolist() == [[1]]


def test_an_image_is_matched_as_if_it_were_alone() -> None:
    output, targets = prediction(layers=2, images=3, queries=6), [objects(4), objects(0), objects(2)]
    together = HungarianMatcher(TERMS)(output, targets)
    for image, target in enumerate(targets):
        alone = Output(output.logits[:, image : image + 1], output.boxes_cxcywh[:, image : image + 1])
        matches = HungarianMatcher(TERMS)(alone, [target])
        for layer in range(2):
            assert pairs_of(matches, layer, 0) == pairs_of(together, layer, image)


def test_a_batch_without_objects_has_no_pairs() -> None:
    matches = HungarianMatcher(TERMS)(prediction(layers=3, images=2), [objects(0), objects(0)])
    for part in (matches.layers, matches.images, matches.queries, matches.objects, matches.batch_objects):
        assert part.shape == (3, 0)
        assert part.dtype == torch.int64


def test_nothing_of_it_carries_a_gradient() -> None:
    output = prediction()
    boxes = output.boxes_cxcywh.requires_grad_()
    matches = HungarianMatcher(TERMS)(Output(output.logits, boxes), [objects(2)])
    assert not matches.queries.requires_grad
    assert boxes.grad is None


class TestMoreObjectsThanQueries:
    def test_matched_as_far_as_queries_go(self) -> None:
        output, targets = prediction(layers=2, images=2, queries=3), [objects(5), objects(2)]
        with pytest.warns(UserWarning, match="queries"):
            matches = HungarianMatcher(TERMS)(output, targets)
        assert matches.queries.shape == (2, 5)
        for image, target in enumerate(targets):
            costs = cost_matrices(output, target, image)
            for layer in range(2):
                assert_least_cost(pairs_of(matches, layer, image), costs[layer])

    def test_a_warning_says_so_once_for_every_matcher(self) -> None:
        output, targets = prediction(images=2, queries=3), [objects(5), objects(2)]
        for _ in range(2):
            matcher = HungarianMatcher(TERMS)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                for _ in range(3):
                    matcher(output, targets)
            assert [str(warning.message) for warning in caught] == [
                "an image has 5 objects but the model only 3 queries: it cannot learn from the remaining objects; "
                "build it with queries=5 or more"
            ]
            assert caught[0].filename == __file__

    def test_a_single_query_is_one(self) -> None:
        with pytest.warns(UserWarning, match="2 objects but the model only 1 query: it cannot"):
            HungarianMatcher(TERMS)(prediction(images=1, queries=1), [objects(2)])

    def test_as_many_objects_as_queries_is_nothing_to_warn_of(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            HungarianMatcher(TERMS)(prediction(images=1, queries=3), [objects(3)])


def complaint(output: Output, targets: Sequence[Target]) -> NonFiniteError:
    with pytest.raises(NonFiniteError) as caught:
        HungarianMatcher(TERMS)(output, targets)
    assert isinstance(caught.value, DetrkitError)
    return caught.value


class TestCostsThatAreNotFinite:
    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_boxes_of_the_model(self, value: float) -> None:
        output, targets = prediction(images=3), [objects(2), objects(2), objects(1)]
        output.boxes_cxcywh[1, 1, 3, 0] = value
        problem = complaint(output, targets)
        assert problem.image == 1
        assert str(problem) == (
            "image 1 of the batch: the matching cost is not finite in the terms l1, giou, because the model's predictions are not; "
            "lower the learning rate, or train in float32"
        )

    def test_scores_of_the_model(self) -> None:
        output, targets = prediction(images=2), [objects(2), objects(2)]
        output.logits[0, 1, 2, 5] = math.nan
        problem = complaint(output, targets)
        assert problem.image == 1
        assert "image 1 of the batch" in str(problem)
        assert "in the terms class, because the model's predictions are not" in str(problem)

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_boxes_of_a_target(self, value: float) -> None:
        output, targets = prediction(images=3), [objects(3), objects(2), objects(1)]
        targets[1].boxes_cxcywh[1, 2] = value
        problem = complaint(output, targets)
        assert problem.image == 1
        assert "image 1 of the batch" in str(problem)
        assert "because its targets are not; check its boxes" in str(problem)

    def test_each_image_is_judged_by_its_own_values(self) -> None:
        output, targets = prediction(images=2), [objects(2), objects(2)]
        targets[0].boxes_cxcywh[1, 2] = math.nan
        output.boxes_cxcywh[0, 1] = math.nan
        problem = complaint(output, targets)
        assert problem.image == 0
        assert "its targets are not" in str(problem)

    def test_the_first_image_is_named(self) -> None:
        output, targets = prediction(images=3), [objects(2), objects(2), objects(1)]
        output.boxes_cxcywh[0, 2] = math.nan
        output.boxes_cxcywh[1, 1] = math.nan
        assert complaint(output, targets).image == 1


def test_queries_that_know_their_object() -> None:
    targets = [objects(2), objects(3), objects(1)]
    rows = torch.tensor([[-1, 1, 0], [-1, -1, -1], [0, -1, -1]])
    output = prediction(layers=2, images=3, queries=3)
    (matches,) = run_together([known_matches(rows, output, targets)])
    assert matches.layers.tolist() == [[0] * 3, [1] * 3]
    assert matches.images.tolist() == [[0, 0, 2]] * 2
    assert matches.queries.tolist() == [[1, 2, 0]] * 2
    assert matches.objects.tolist() == [[1, 0, 0]] * 2
    assert matches.batch_objects.tolist() == [[1, 0, 5]] * 2


def test_predictions_of_queries_that_know_their_object_must_be_finite() -> None:
    output = prediction(layers=2, images=2, queries=3)
    output.logits[1, 1, 0, 2] = math.inf
    with pytest.raises(
        NonFiniteError, match=r"^image 1 of the batch: the loss is not finite, because the model's"
    ) as caught:
        run_together([known_matches(torch.full((2, 3), -1), output, [objects(1), objects(0)])])
    assert caught.value.image == 1


def test_a_check_comes_before_all_matching() -> None:
    def refuse(inputs: Sequence[NDArray[Any]]) -> None:
        assert inputs[0] == 7
        raise ValueError("first")

    output = prediction()
    output.logits[0, 0, 0, 0] = math.nan
    with pytest.raises(ValueError, match=r"^first$"):
        run_together([HungarianMatcher(TERMS).task(output, [objects(1)])], [HostTask((torch.tensor(7),), refuse)])
