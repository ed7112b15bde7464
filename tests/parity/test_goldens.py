"""Models against values that the authors' code computed on weights made from names alone.

A part of these values lies beside the tests; the whole of them (every stage, class score and gradient) is compared where it can be had.
"""

from __future__ import annotations

import copy
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comparing import chosen_scores, in_the_order_of
from conftest import shared_folder
from parity import cases, make_small_goldens, recipe
from parity.cases import Golden, Run

import detrkit
from detrkit.checkpoints import to_official
from detrkit.losses.sets import repeat_target
from detrkit.models.catalog import selection_for
from detrkit.structures import Detections, ImageBatch, Output, Stages, Target


def goldens_of(case: str) -> dict[str, Golden]:
    found = {"small": cases.small_golden(case), "shared": cases.shared_golden(case, shared_folder())}
    return {source: golden for source, golden in found.items() if golden is not None}


# They differ from other cases by a dilated backbone alone, which `detr_r50_dc5` has.
DILATED = {
    "conditional_detr_r50_dc5",
    "dab_detr_r50_dc5",
    "deformable_detr_single_scale_dc5",
    "anchor_detr_r50_dc5",
}
PARAMS = [pytest.param(case, marks=pytest.mark.slow) if case in DILATED else case for case in cases.CASES]


@pytest.fixture(scope="module", params=PARAMS)
def run(request: pytest.FixtureRequest) -> Run:
    """One run a case, whatever it is compared with."""
    goldens = goldens_of(request.param)
    if not goldens:
        pytest.skip("needs the shared reference data: set DETRKIT_SHARED to its folder")
    return Run(request.param, next(iter(goldens.values())).manifest)


@pytest.fixture(scope="module", params=["small", "shared"])
def golden(request: pytest.FixtureRequest, run: Run) -> Golden:
    goldens = goldens_of(run.case)
    if request.param not in goldens:
        pytest.skip(f"there are no {request.param} reference values of {run.case}")
    return goldens[request.param]


def test_every_stage_and_layer(run: Run, golden: Golden) -> None:
    assert len(golden.stages) >= 12  # class scores and boxes of six layers
    for name in golden.stages:
        places = golden.places(name)
        found, wanted = run.sample(name, golden, run.stages)[places], golden.arrays[name][places]
        np.testing.assert_allclose(found, wanted, atol=1e-6, rtol=0, err_msg=name)


def test_the_best_proposals_become_references(run: Run, golden: Golden) -> None:
    proposals = run.output.proposals
    assert (proposals is None) == ("encoder.topk" not in golden.arrays)
    if proposals is None:  # a model of one stage
        return
    chosen = torch.from_numpy(golden.arrays["encoder.topk"]).reshape(2, -1, 1).expand(-1, -1, 4)
    wanted = run.stages.all_proposals.boxes_cxcywh.gather(1, chosen)
    torch.testing.assert_close(run.stages.decoded.references[0], wanted, atol=1e-9, rtol=0)


def test_padding_of_the_levels(run: Run, shared: Path) -> None:
    golden = cases.shared_golden(run.case, shared)
    assert golden is not None
    if "levels" not in golden.manifest:
        pytest.skip("the padding is among the stages of this case")
    for padding, level in zip(run.stages.neck.paddings, golden.manifest["levels"], strict=True):
        assert padding is not None
        assert list(padding.shape[1:]) == level["size"]
        valid = [[int((~image).any(1).sum()), int((~image).any(0).sum())] for image in padding]
        assert valid == level["valid"]


def test_matches(run: Run, golden: Golden) -> None:
    found = {str(layer): rows for layer, rows in enumerate(pairs(run, run.output, run.targets()))}
    proposals = run.output.proposals
    if proposals is not None:
        layer, objects = proposals.chosen, run.targets()
        if layer is None:  # all of them, which only tell objects from none
            layer = proposals.all
            objects = [Target(torch.zeros_like(target.labels), target.boxes_cxcywh) for target in objects]
        (found["encoder"],) = pairs(run, Output(layer.logits[None], layer.boxes_cxcywh[None]), objects)
    assert found == golden.manifest["matches"]


def test_matches_of_training_queries(run: Run, golden: Golden) -> None:
    """Copies of an object are alike, so any of them may have been matched."""
    wanted = golden.manifest.get("matches_one2many")
    groups = run.output.training_groups
    assert (wanted is None) == (groups == ())
    if wanted is None:  # all other models have the same queries always
        return
    (group,) = groups
    targets = [repeat_target(target, group.group.repeats) for target in run.targets()]
    for layer, rows in enumerate(pairs(run, group.output, targets)):
        for found, (queries, objects), target in zip(rows, wanted[str(layer)], run.targets(), strict=True):
            count = len(target.labels)
            assert found[0] == queries
            assert [number % count for number in found[1]] == [number % count for number in objects]


def pairs(run: Run, output: Output, targets: list[Target]) -> list[list[list[list[int]]]]:
    """[queries, objects] of every layer and image, as the authors write them."""
    matches = run.criterion.matcher(output, targets)
    table = zip(matches.images, matches.queries, matches.objects, strict=True)
    return [
        [[queries[images == image].tolist(), objects[images == image].tolist()] for image in range(len(targets))]
        for images, queries, objects in table
    ]


@pytest.mark.parametrize(("entry", "empty"), [(None, ()), ("empty_one", (1,)), ("empty_both", (0, 1))])
def test_losses(run: Run, golden: Golden, entry: str | None, empty: tuple[int, ...]) -> None:
    values: dict[str, Any] = golden.manifest if entry is None else golden.manifest[entry]
    losses = run.criterion(run.output, run.targets(empty=empty))
    wanted = run.our_terms(values["losses"])
    assert losses.terms.keys() == wanted.keys()
    for name, value in wanted.items():
        assert losses.terms[name].item() == pytest.approx(value, rel=1e-6, abs=1e-9), name
    assert losses.total.item() == pytest.approx(values["total"], rel=1e-6)


def test_loss_weights(run: Run, golden: Golden) -> None:
    weights = golden.manifest["weights"]
    assert run.criterion.weights == run.our_terms(weights) | run.denoising_terms(weights)


@pytest.fixture(scope="module")
def gradients(run: Run) -> dict[str, tuple[float, float]]:
    """Norm and probe of every gradient by the authors' canonical keys."""
    run.model.zero_grad()
    run.criterion(run.output, run.targets()).total.backward(retain_graph=True)
    named = {name: value.grad for name, value in run.model.named_parameters() if value.grad is not None}
    found = to_official(named, run.model)
    run.model.zero_grad()
    return {key: recipe.norm_and_probe(key, value) for key, value in found.items() if key not in run.aliases}


def test_gradients(golden: Golden, gradients: dict[str, tuple[float, float]]) -> None:
    wanted_gradients = {key: wanted for key, wanted in golden.gradients.items() if any(wanted) or key in gradients}
    if golden.complete:
        assert gradients.keys() == wanted_gradients.keys()
    assert not set(golden.frozen) & gradients.keys()
    for key, wanted in wanted_gradients.items():
        tolerance = 1e-4 * wanted[0] + 1e-9  # some are zero but for rounding
        assert np.abs(np.subtract(gradients[key], wanted)).max() <= tolerance, key


def test_post_processing(run: Run, golden: Golden) -> None:
    """The authors report outputs without a name, too. Ours never does, and gives what is left of theirs."""
    ours, sizes = selection_for(run.model), torch.tensor(golden.manifest["postprocess"]["target_sizes"])
    named = {category.index for category in run.model.card.categories}
    results = golden.manifest["postprocess"]["results"]
    every_output: Any = copy.copy(getattr(ours, "boxes", ours))
    every_output.named = None
    for whole, reported, wanted in zip(every_output(run.output, sizes), ours(run.output, sizes), results, strict=True):
        count = wanted.get("count", golden.case.reported)
        assert len(whole.scores) == len(reported.scores) == count
        every = list(range(len(wanted["scores"])))
        assert len(every) > 5
        check_detections(whole, wanted, every)
        # In three cases the best of them are all of outputs without a name.
        with_a_name = [place for place in every if wanted["labels"][place] in named]
        assert len(with_a_name) > 5 or run.case in (
            "anchor_detr_r50_c5_plain",
            "sam_detr_r50_multiscale",
            "detr_r50_panoptic",
        )
        check_detections(reported, wanted, with_a_name)


def check_detections(found: Detections, wanted: dict[str, Any], places: list[int]) -> None:
    """Whether the best of what was found is what stands in these places."""
    count = len(places)
    assert found.labels[:count].tolist() == [wanted["labels"][place] for place in places]
    scores, boxes = np.array(wanted["scores"])[places], np.array(wanted["boxes"])[places]
    np.testing.assert_allclose(found.scores[:count].detach().numpy(), scores, atol=1e-6)
    np.testing.assert_allclose(found.boxes_xyxy[:count].detach().numpy(), boxes, atol=1e-4)


def test_the_authors_checkpoint_is_loaded_whole(run: Run, tmp_path: Path) -> None:
    """Through the file that the authors would have saved; everything else here then holds for loaded models, too."""
    content = {key: value.float() for key, value in run.weights.items()}
    unused = cases.CASES[run.case].unused
    if unused is not None:
        content[f"{unused}0.weight"] = torch.ones(4, 4)
    torch.save({"model": content, "args": Namespace(**cases.CASES[run.case].arguments)}, tmp_path / "case.pth")
    loaded = detrkit.load(tmp_path / "case.pth", variant=cases.CASES[run.case].variant)
    assert loaded.state_dict().keys() == run.model.state_dict().keys()
    state = run.model.state_dict()
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, state[name].to(value.dtype)), name


def test_our_keys_are_those_of_the_authors(run: Run, shared: Path) -> None:
    golden = cases.shared_golden(run.case, shared)
    assert golden is not None
    found = to_official(run.model.state_dict(), run.model)
    uses = cases.CASES[run.case].uses
    tensors = golden.manifest["tensors"].items()
    wanted = {key: shape for key, shape in tensors if "num_batches_tracked" not in key and uses(key)}
    assert {key: list(value.shape) for key, value in found.items()} == wanted
    for key, canonical in run.aliases.items():
        assert torch.equal(found[key], found[canonical])


def test_images_alone(run: Run, golden: Golden) -> None:
    """Papers in which padding reaches the results have been run on each image without padding, too: the last layer."""
    found = [name for name in golden.arrays if name.startswith(cases.ALONE)]
    if not found:
        pytest.skip("this case has no results of single images")
    for row, spec in enumerate(run.manifest["images"]):
        with torch.no_grad():
            output = run.model(ImageBatch(recipe.image(*spec)[None]))
        for name, values in (("logits", output.logits), ("boxes", output.boxes_cxcywh)):
            array = f"{cases.ALONE}{row}.{name}"
            own = values[-1, 0].numpy().reshape(-1)[:: golden.steps[array]]
            np.testing.assert_allclose(own, golden.arrays[array], atol=1e-6, rtol=0)
            found.remove(array)
    assert not found


@pytest.fixture(scope="module")
def float32_stages(run: Run) -> Stages:
    """The output in float32, which holds the weights exactly; where proposals are equal up to rounding, in the order of float64."""
    run.model.to(torch.float32)
    with torch.no_grad():
        stages = run.stages_of(run.batch(torch.float32))
    run.model.to(torch.float64)
    scores = chosen_scores(run.stages.queries)
    if scores is not None:
        stages.output = in_the_order_of(run.output, stages.output, scores)
    return stages


def test_float32(run: Run, golden: Golden, float32_stages: Stages) -> None:
    """Ten times what the authors' own code differs by."""
    scores, boxes = (3e-4, 4e-5) if run.case == "detr_r50_dc5" else (1e-4, 2e-5)
    for name in golden.stages:
        if name.endswith((".logits", ".boxes")):
            tolerance = scores if name.endswith("logits") else boxes
            found, wanted = run.sample(name, golden, float32_stages), golden.arrays[name]
            np.testing.assert_allclose(found, wanted, atol=tolerance, rtol=0, err_msg=name)


@pytest.mark.parametrize("case", make_small_goldens.CASES)
def test_small_values_are_a_part_of_the_shared(case: str, shared: Path) -> None:
    content = make_small_goldens.small(shared / "golden" / case)
    assert make_small_goldens.text(content) == (cases.DATA / f"{case}.json").read_text()
