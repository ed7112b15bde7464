"""What every entry of the catalog has to keep, whatever its paper: adding a variant adds its tests.

Names are checked of every variant, on a model without memory (`whole`). What takes a forward pass runs once for each structure (see
`structure`), on a small model (`model`); export, which takes longer, on fewer of them (see `to_export`). Checks from outside hold for any
detector; those of single parts are for models made of the six parts. A check that a variant breaks by design is named in its `exceptions`
and then has to fail.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from comparing import assert_same_output, chosen_scores
from examined_variants import backbone_kind, export_traits, representatives, structure, to_export
from torch import nn

import detrkit
from detrkit.backbones.resnet import ResNet
from detrkit.layers.fcos_head import FeatureOutput
from detrkit.layers.frozen_batch_norm import FrozenBatchNorm2d
from detrkit.models.catalog import CATALOG, config_of, selection_for
from detrkit.models.detector import EncoderDecoder, flatten_levels
from detrkit.models.h_detr import MixedQueries
from detrkit.models.light_detr import DistinctQueries
from detrkit.structures import ImageBatch, Levels, Output, Stages, Target

HEIGHT, WIDTH = 128, 160
REPRESENTATIVES = representatives(CATALOG)
EXPORTED, FURTHER_EXPORTED = to_export(CATALOG)


def smaller(variant: str) -> dict[str, Any]:
    """Settings of a model of the same structure that takes a part of the time; the kind of its backbone is examined with one variant."""
    config = CATALOG[variant].config
    sizes = {"width": 64, "hidden": 64, "queries": 24, "decoder_layers": 2}
    fewer = {name: min(value, getattr(config, name)) for name, value in sizes.items()}
    fewer["encoder_layers"] = min(config.encoder_layers, 1)
    if hasattr(config, "pyramid_width"):  # whose towers, side by side in TSP-FCOS, are as wide as the tokens
        fewer |= {"width": 128, "pyramid_width": 64}
    own_backbone = backbone_kind(config) in REPRESENTATIVES[variant]
    return fewer | ({} if own_backbone else {"backbone": "compact"})


@pytest.fixture(scope="module", params=list(CATALOG))
def whole(request: pytest.FixtureRequest) -> detrkit.Detector:
    """Every variant as it is in the catalog, but without values."""
    with torch.device("meta"):
        return detrkit.build(request.param)


@pytest.fixture(scope="module", params=list(REPRESENTATIVES))
def model(request: pytest.FixtureRequest) -> detrkit.Detector:
    """A small model of every structure."""
    torch.manual_seed(0)
    detector = detrkit.build(request.param, classes=["cat", "dog", "bird"], **smaller(request.param)).eval()
    for module in detector.backbone.modules():
        if isinstance(module, FrozenBatchNorm2d) and isinstance(detector.backbone, ResNet):
            module.weight.fill_(0.5)  # random weights under norms that do nothing overflow in a deep network
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            module.weight.data.mul_(module.groups**0.5)  # they begin so small that hardly anything would come through
    if isinstance(getattr(detector, "query_source", None), DistinctQueries | MixedQueries):
        content = detector.query_source.content.weight.data
        content[:] = content[0].clone()  # so that results do not depend on which of two equal proposals comes first
    for parameter in detector.parameters():
        if parameter.dim() > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)  # what begins at zero would hide what comes before it
    return detector


@pytest.fixture(autouse=True)
def _exceptions(request: pytest.FixtureRequest) -> None:
    """A check that a variant breaks by design has to fail, and the variant says why."""
    if "model" not in request.fixturenames:
        return
    variant = request.getfixturevalue("model").card.variant
    check = request.node.originalname.removeprefix("test_").removesuffix("_of_every_trait")
    reason = exceptions_of(variant).get(check)
    if reason is not None:
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))


def exceptions_of(variant: str) -> Mapping[str, str]:
    """The checks, without "test_", that a variant breaks by design, and the sentence that tells why."""
    return CATALOG[variant].exceptions


@pytest.fixture
def parts(model: detrkit.Detector) -> EncoderDecoder:
    """The model, for checks of single parts."""
    if not isinstance(model, EncoderDecoder):
        pytest.skip("not made of the six parts")
    return model


@pytest.fixture(scope="module")
def expected(model: detrkit.Detector) -> Stages:
    """What the model gives for `images()`."""
    return stages_of(model, ImageBatch(images()))


@torch.no_grad()
def stages_of(model: detrkit.Detector, batch: ImageBatch) -> Stages:
    return model.stages(batch)


def assert_close(found: Output, wanted: Stages, tolerance: float) -> None:
    """Queries of a two-stage model may change places where their proposals' scores are equal up to rounding."""
    assert_same_output(found, wanted.output, tolerance, choice_of(wanted))


def choice_of(stages: Stages) -> torch.Tensor | None:
    """What the queries of a model with a query source, or features, were chosen by; None where they were not."""
    queries = getattr(stages, "queries", None)
    if isinstance(stages.output, FeatureOutput):
        features = stages.output.features
        return features.cell_logits.amax(-1).gather(1, features.cells)
    return None if queries is None else chosen_scores(queries)


def images(height: int = HEIGHT, width: int = WIDTH, count: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def padding_of(*sizes: tuple[int, int], height: int = HEIGHT, width: int = WIDTH) -> torch.Tensor:
    padding = torch.ones(len(sizes), height, width, dtype=torch.bool)
    for row, (inside_height, inside_width) in enumerate(sizes):
        padding[row, :inside_height, :inside_width] = False
    return padding


def some_targets() -> list[Target]:
    boxes = torch.tensor([[0.3, 0.4, 0.2, 0.3], [0.7, 0.6, 0.3, 0.5]])
    return [
        Target(labels=torch.tensor([0, 2]), boxes_cxcywh=boxes, masks=torch.rand(2, HEIGHT, WIDTH) > 0.5),
        Target(labels=torch.zeros(0, dtype=torch.int64), boxes_cxcywh=torch.zeros(0, 4)),
    ]


@torch.no_grad()
def test_nothing_behind_padding_matters(model: detrkit.Detector) -> None:
    padding = padding_of((HEIGHT, 100), (97, WIDTH))
    pixels = images()
    other = torch.where(padding[:, None], torch.full_like(pixels, 1e4), pixels)
    wanted = stages_of(model, ImageBatch(pixels, padding))
    assert_close(model(ImageBatch(other, padding)), wanted, 1e-5)  # 1e4 would not hide behind such a tolerance
    shown = torch.where(
        torch.arange(HEIGHT)[:, None] < 40, -pixels, pixels
    )  # pixels that are not behind padding do matter
    assert (model(ImageBatch(shown, padding)).logits - wanted.output.logits).abs().max() > 1e-3


@torch.no_grad()
def test_padding_none_is_padding_nowhere(model: detrkit.Detector, expected: Stages) -> None:
    nowhere = model(ImageBatch(images(), torch.zeros(2, HEIGHT, WIDTH, dtype=torch.bool)))
    assert_close(nowhere, expected, 1e-5)


@torch.no_grad()
def test_permuted_queries_give_permuted_results(parts: EncoderDecoder, expected: Stages) -> None:
    queries, output = expected.queries, expected.output
    order = torch.randperm(queries.content.shape[1], generator=torch.Generator().manual_seed(3))
    of_all = {field.name: getattr(queries, field.name) for field in dataclasses.fields(queries)}
    names = [name for name, value in of_all.items() if isinstance(value, torch.Tensor) and name != "mask"]
    assert {"content"} < set(names) <= {"content", "position", "references", "reference_logits"}
    permuted = dataclasses.replace(queries, **{name: getattr(queries, name)[:, order] for name in names})
    found = parts.heads(parts.decoder(permuted, expected.memory, parts.heads))
    assert_same_output(found, Output(output.logits[:, :, order], output.boxes_cxcywh[:, :, order]), 1e-4)


@torch.no_grad()
def test_the_best_proposals_become_queries(model: detrkit.Detector, expected: Stages) -> None:
    """Queries come in the order of their proposals' scores, and no proposal that was left out has a better one."""
    scores = choice_of(expected)
    if scores is None or getattr(config_of(model), "distinct_overlap", None) is not None:
        pytest.skip("queries are not simply the best proposals")
    if isinstance(expected.output, FeatureOutput):
        every = expected.output.features.cell_logits.amax(-1)
    elif expected.output.proposals.all is None:  # only those that were chosen, by their best class
        every = model.query_source.proposals(expected.memory).logits.amax(-1)
    else:
        every = expected.output.proposals.all.logits[..., 0]
    best = every.topk(scores.shape[1]).values
    torch.testing.assert_close(scores, best, atol=1e-6, rtol=1e-6)
    assert (best[:, 0] - best[:, -1]).min() > 1e-2  # else any order would do


@torch.no_grad()
def test_images_of_a_batch_do_not_see_each_other(model: detrkit.Detector, expected: Stages) -> None:
    for row in range(2):
        part, scores = slice(row, row + 1), choice_of(expected)
        wanted = Output(expected.output.logits[:, part], expected.output.boxes_cxcywh[:, part])
        assert_same_output(model(ImageBatch(images()[part])), wanted, 1e-4, None if scores is None else scores[part])


@torch.no_grad()
def test_tokens_behind_padding_are_not_looked_at(parts: EncoderDecoder) -> None:
    """From the levels on, a padded image gives what it gives alone; before them, convolutions and norms may see its border."""
    features = parts.backbone(ImageBatch(images(count=1)))
    alone = parts.neck(features[-getattr(parts, "levels_taken", 0) :])  # the others are for masks
    padded = with_padding(parts, alone)
    height, width = alone.maps[0].shape[-2:]
    image_sizes = torch.tensor([[8.0 * width, 8.0 * height]])  # any will do, if it is the same for both
    memory, padded_memory = (parts.encoder(flatten_levels(levels, image_sizes)) for levels in (alone, padded))
    for level, wanted in zip(padded_memory.maps(), memory.maps(), strict=True):
        inside = level[..., : wanted.shape[-2], : wanted.shape[-1]]
        torch.testing.assert_close(inside, wanted, atol=1e-4, rtol=1e-4)
    queries = parts.make_queries(memory)
    single, whole = (parts.heads(parts.decoder(queries, each, parts.heads)) for each in (memory, padded_memory))
    assert_same_output(whole, single, 1e-4)
    proposals, padded_proposals = queries.proposals, parts.make_queries(padded_memory).proposals
    if proposals is not None and proposals.all is not None:
        inside = ~padded_memory.padding[0]
        torch.testing.assert_close(padded_proposals.all.logits[:, inside], proposals.all.logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(padded_proposals.all.boxes_cxcywh[:, inside], proposals.all.boxes_cxcywh)


def with_padding(model: EncoderDecoder, levels: Levels) -> Levels:
    """Levels of an image in a larger batch: noise behind padding, two cells of the coarsest level at the right and one below."""
    maps, paddings = [], []
    for level in levels.maps:
        height, width = level.shape[-2:]
        scale = height // levels.maps[-1].shape[-2]
        noisy = torch.randn(1, level.shape[1], height + scale, width + 2 * scale)
        noisy[..., :height, :width] = level
        maps.append(noisy)
        paddings.append(padding_of((height, width), height=height + scale, width=width + 2 * scale))
    positions = tuple(model.neck.position_encoding(*pair) for pair in zip(maps, paddings, strict=True))
    return Levels(tuple(maps), positions, tuple(paddings))


def test_every_tensor_has_one_name(whole: detrkit.Detector) -> None:
    """A module that two parts hold would be saved twice; whoever owns it hands it to whoever needs it."""
    tensors = [*whole.named_parameters(remove_duplicate=False), *whole.named_buffers(remove_duplicate=False)]
    names: dict[int, list[str]] = {}
    for name, tensor in tensors:
        names.setdefault(id(tensor), []).append(name)
    assert [same for same in names.values() if len(same) > 1] == []


def test_every_parameter_gets_a_gradient(model: detrkit.Detector) -> None:
    """A parameter without one would stop training on several devices; an image without objects must not change that."""
    model.zero_grad()
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    model.train()  # some parts are there in training only
    try:
        output = model(ImageBatch(images()), some_targets())
        detrkit.criterion_for(model)(output, some_targets()).total.backward()
    finally:
        model.eval()
        for name, value in model.named_buffers():
            value.copy_(buffers[name])  # norms have counted the batch
    without = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
    frozen = [name for name, value in model.named_parameters() if not value.requires_grad and value.grad is not None]
    broken = [
        name for name, value in model.named_parameters() if value.grad is not None and not value.grad.isfinite().all()
    ]
    assert (without, frozen, broken) == ([], [], [])
    model.zero_grad()


def test_export(model: detrkit.Detector) -> None:
    if model.card.variant not in EXPORTED:
        pytest.skip("another of its family is exported")
    check_export(model)


@pytest.mark.slow
def test_export_of_every_trait(model: detrkit.Detector) -> None:
    if model.card.variant not in FURTHER_EXPORTED:
        pytest.skip("others that have all of its traits between them are exported")
    check_export(model)


def check_export(model: detrkit.Detector) -> None:
    """One graph for every batch and image size, the same numbers out."""
    batch_size, size = torch.export.Dim("batch", min=1), torch.export.Dim.DYNAMIC
    shapes = [{0: batch_size, 2: size, 3: size}, {0: batch_size, 1: size, 2: size}]
    # One row or column of the coarsest level is a case of its own: where there can be one, all images are larger.
    more = 2 if model.coarsest_stride >= HEIGHT else 1
    padding = padding_of((more * HEIGHT, 100), (97, more * WIDTH), height=more * HEIGHT, width=more * WIDTH)
    example = ImageBatch(images(more * HEIGHT, more * WIDTH), padding)
    program = torch.export.export(model, (example,), dynamic_shapes=(shapes,)).module()
    for count, height, width in ((1, 96 * more, 192 * more), (3, 160 * more, 130 * more)):
        inside = padding_of(*([(height, width)] * (count - 1)), (height - 30, width), height=height, width=width)
        batch = ImageBatch(images(height, width, count, seed=5), inside)
        with torch.no_grad():
            assert_close(program(batch), model.stages(batch), 1e-4)


@torch.no_grad()
def test_forward_gives_the_last_of_the_stages(model: detrkit.Detector, expected: Stages) -> None:
    padded = ImageBatch(images(), padding_of((HEIGHT, 100), (97, WIDTH)))
    for batch, wanted in ((ImageBatch(images()), expected), (padded, model.stages(padded))):
        output = model(batch)
        assert_close(output, wanted, 1e-5)
        assert (output.proposals is None) == (wanted.output.proposals is None)


@torch.no_grad()
def test_mixed_precision_keeps_coordinates_in_float32(parts: EncoderDecoder, expected: Stages) -> None:
    model = parts
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model.stages(ImageBatch(images()))
        # Rounding may change which proposals are best, so that boxes are compared for the same queries.
        output = model.heads(model.decoder(expected.queries, found.memory, model.heads))
    pairs = [(output, expected.output)]
    if found.output.proposals is not None and found.output.proposals.all is not None:
        pairs.append((found.output.proposals.all, expected.output.proposals.all))
    for ours, wanted in pairs:
        assert ours.boxes_cxcywh.dtype is torch.float32
        assert (ours.boxes_cxcywh - wanted.boxes_cxcywh).abs().max() < 0.05
    assert all(references.dtype is torch.float32 for references in found.decoded.references)


@torch.no_grad()
def test_a_bfloat16_model_keeps_coordinates_in_float32(parts: EncoderDecoder) -> None:
    """Also without autocast, where every parameter has few digits."""
    model = copy.deepcopy(parts).bfloat16()
    stages = model.stages(ImageBatch(images().bfloat16()))
    assert stages.output.logits.dtype is torch.bfloat16
    assert stages.output.boxes_cxcywh.dtype is torch.float32
    assert all(references.dtype is torch.float32 for references in stages.decoded.references)


@torch.no_grad()
def test_own_file_gives_the_same_model(model: detrkit.Detector, expected: Stages, tmp_path: Path) -> None:
    again = detrkit.load(detrkit.save(model, tmp_path / "model.safetensors"))
    assert again.card == model.card
    state = again.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert_close(again(ImageBatch(images())), expected, 1e-5)  # rounding depends on where weights lie in memory


def test_official_names_of_every_layer(whole: detrkit.Detector) -> None:
    state = whole.state_dict()
    official = detrkit.checkpoints.to_official(state, whole)
    back = detrkit.checkpoints.from_official(official, whole)
    assert {name: value.shape for name, value in back.items()} == {name: value.shape for name, value in state.items()}


def test_official_names_and_back(model: detrkit.Detector) -> None:
    state = model.state_dict()
    official = detrkit.checkpoints.to_official(state, model)
    back = detrkit.checkpoints.from_official(official, model)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], value) for name, value in state.items())


@torch.no_grad()
def test_float64_works(model: detrkit.Detector, expected: Stages) -> None:
    output = copy.deepcopy(model).to(torch.float64)(ImageBatch(images().double()))
    assert output.logits.dtype is output.boxes_cxcywh.dtype is torch.float64
    assert_close(output.to(dtype=torch.float32), expected, 1e-3)


def test_selection_reports_only_named_classes(model: detrkit.Detector, expected: Stages) -> None:
    found = selection_for(model)(expected.output, torch.tensor([[100, 200], [50, 60]]))
    named = {category.index for category in model.card.categories}
    for detections in found:
        assert set(detections.labels.tolist()) <= named
        assert detections.scores.diff().max() <= 0


def test_every_structure_and_every_kind_of_backbone_is_examined() -> None:
    examined = [CATALOG[name] for name in REPRESENTATIVES]
    assert {structure(each.family, each.config) for each in examined} == {
        structure(each.family, each.config) for each in CATALOG.values()
    }
    assert {backbone_kind(each.config) for each in examined} == {
        backbone_kind(each.config) for each in CATALOG.values()
    }


def test_what_is_exported_has_every_trait() -> None:
    traits = {name: export_traits(each.family, each.config) for name, each in CATALOG.items()}
    assert set().union(*(traits[name] for name in (*EXPORTED, *FURTHER_EXPORTED))) == set().union(*traits.values())
    families = {trait[:2] for name in (*EXPORTED, *FURTHER_EXPORTED) for trait in traits[name] if len(trait) == 3}
    assert {(each.family, "encoder_layers") for each in CATALOG.values()} <= families


def test_variants_of_one_structure_have_the_same_exceptions() -> None:
    """Their checks run on one of them."""
    seen: dict[tuple[Any, ...], Mapping[str, str]] = {}
    for name, each in CATALOG.items():
        assert seen.setdefault(structure(each.family, each.config), exceptions_of(name)) == exceptions_of(name), name


def test_sizes_make_no_structure_and_switches_do() -> None:
    base = CATALOG["deformable-detr-r50"]
    wanted = structure(base.family, base.config)
    for change in ({"backbone": "resnet101"}, {"width": 128, "queries": 100}, {"dropout": 0.0}, {"hidden": 512}):
        assert structure(base.family, dataclasses.replace(base.config, **change)) == wanted
    for change in ({"levels": 1}, {"refine": True}, {"encoder_layers": 0}, {"class_weight": 0.0}):
        assert structure(base.family, dataclasses.replace(base.config, **change)) != wanted
    assert structure("other", base.config) != wanted
    assert {"deformable-detr-r18", "detr-r101"} - set(REPRESENTATIVES)


def test_exceptions_name_checks() -> None:
    checks = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    for variant in CATALOG:
        for name, reason in exceptions_of(variant).items():
            assert name in checks, variant
            assert reason.endswith("."), variant
