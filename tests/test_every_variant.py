"""What every entry of the catalog has to keep, whatever its paper: adding a variant adds its tests."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

import detrkit
from detrkit.backbones.resnet import ResNet
from detrkit.layers.frozen_batch_norm import FrozenBatchNorm2d
from detrkit.models.catalog import CATALOG, config_of, selection_for
from detrkit.models.detector import flatten_levels
from detrkit.structures import ImageBatch, Levels, Output, Stages, Target

HEIGHT, WIDTH = 128, 160


@pytest.fixture(scope="module", params=list(CATALOG))
def model(request: pytest.FixtureRequest) -> detrkit.Detector:
    torch.manual_seed(0)
    detector = detrkit.build(request.param, classes=["cat", "dog", "bird"]).eval()
    for module in detector.modules():
        if isinstance(module, FrozenBatchNorm2d) and isinstance(detector.backbone, ResNet):
            module.weight.fill_(0.5)  # random weights under norms that do nothing overflow in a deep network
    if getattr(config_of(detector), "learned_content", False):
        content = detector.query_source.embedding.weight.data
        content[:] = content[0].clone()  # see `assert_close`
    for parameter in detector.parameters():
        if parameter.dim() > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)  # what begins at zero would hide what comes before it
    return detector


@pytest.fixture(scope="module")
def expected(model: detrkit.Detector) -> Stages:
    """What the model gives for `images()`."""
    with torch.no_grad():
        return model.stages(ImageBatch(images()))


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
        Target(labels=torch.tensor([0, 2]), boxes_cxcywh=boxes),
        Target(labels=torch.zeros(0, dtype=torch.int64), boxes_cxcywh=torch.zeros(0, 4)),
    ]


def assert_close(found: Output, wanted: Output, tolerance: float) -> None:
    """Of a two-stage model in any order, since rounding decides which of two equal proposals comes first.

    So that results do not depend on that order, `model` gives all ranks the same content where content is learned.
    """
    if found.proposals is not None:
        found = in_the_order_of(wanted, found)
    torch.testing.assert_close(found.logits, wanted.logits, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(found.boxes_cxcywh, wanted.boxes_cxcywh, atol=min(tolerance, 1e-5), rtol=tolerance)


def in_the_order_of(wanted: Output, found: Output) -> Output:
    """For every query of `wanted` one of `found`, so that they are as alike as can be over all."""
    ours, theirs = (torch.cat([each.logits, each.boxes_cxcywh], dim=-1) for each in (wanted, found))
    parts = [torch.cat(each.unbind(0), dim=-1) for each in (ours, theirs)]  # (B, Q, everything)
    pairs = [linear_sum_assignment(distances)[1] for distances in torch.cdist(*parts).detach().numpy()]
    order = torch.from_numpy(np.stack(pairs))[None, ..., None]  # (1, B, Q, 1)
    layers = len(found.logits)
    return Output(
        found.logits.gather(2, order.expand(layers, -1, -1, found.logits.shape[-1])),
        found.boxes_cxcywh.gather(2, order.expand(layers, -1, -1, 4)),
    )


@torch.no_grad()
def test_nothing_behind_padding_matters(model: detrkit.Detector) -> None:
    padding = padding_of((HEIGHT, 100), (97, WIDTH))
    pixels = images()
    other = torch.where(padding[:, None], torch.full_like(pixels, 1e4), pixels)
    first, second = model(ImageBatch(pixels, padding)), model(ImageBatch(other, padding))
    assert torch.equal(first.logits, second.logits)
    assert torch.equal(first.boxes_cxcywh, second.boxes_cxcywh)
    shown = torch.where(
        torch.arange(HEIGHT)[:, None] < 40, -pixels, pixels
    )  # pixels that are not behind padding do matter
    assert not torch.equal(first.logits, model(ImageBatch(shown, padding)).logits)


@torch.no_grad()
def test_padding_none_is_padding_nowhere(model: detrkit.Detector, expected: Stages) -> None:
    nowhere = model(ImageBatch(images(), torch.zeros(2, HEIGHT, WIDTH, dtype=torch.bool)))
    assert_close(nowhere, expected.output, 1e-5)


@torch.no_grad()
def test_permuted_queries_give_permuted_results(model: detrkit.Detector, expected: Stages) -> None:
    queries, output = expected.queries, expected.output
    order = torch.randperm(queries.content.shape[1], generator=torch.Generator().manual_seed(3))
    names = [name for name in ("content", "position", "references") if getattr(queries, name) is not None]
    permuted = dataclasses.replace(queries, **{name: getattr(queries, name)[:, order] for name in names})
    found = model.heads(model.decoder(permuted, expected.memory, model.heads))
    assert_close(found, Output(output.logits[:, :, order], output.boxes_cxcywh[:, :, order]), 1e-4)


@torch.no_grad()
def test_images_of_a_batch_do_not_see_each_other(model: detrkit.Detector, expected: Stages) -> None:
    for row in range(2):
        part = slice(row, row + 1)
        alone = model(ImageBatch(images()[part]))
        assert_close(alone, Output(expected.output.logits[:, part], expected.output.boxes_cxcywh[:, part]), 1e-4)


@torch.no_grad()
def test_tokens_behind_padding_are_not_looked_at(model: detrkit.Detector) -> None:
    """From the levels on, a padded image gives what it gives alone; before them, convolutions and norms may see its border."""
    alone = model.neck(model.backbone(ImageBatch(images(count=1))))
    padded = with_padding(model, alone)
    memory, padded_memory = (model.encoder(flatten_levels(levels)) for levels in (alone, padded))
    for level, wanted in zip(padded_memory.maps(), memory.maps(), strict=True):
        inside = level[..., : wanted.shape[-2], : wanted.shape[-1]]
        torch.testing.assert_close(inside, wanted, atol=1e-4, rtol=1e-4)
    queries = model.query_source(memory)
    single, whole = (model.heads(model.decoder(queries, each, model.heads)) for each in (memory, padded_memory))
    assert_close(whole, single, 1e-4)
    proposals, padded_proposals = queries.proposals, model.query_source(padded_memory).proposals
    if proposals is not None and padded_proposals is not None:
        inside = ~padded_memory.padding[0]
        torch.testing.assert_close(padded_proposals.logits[:, inside], proposals.logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(padded_proposals.boxes_cxcywh[:, inside], proposals.boxes_cxcywh)


def with_padding(model: detrkit.Detector, levels: Levels) -> Levels:
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


def test_every_parameter_gets_a_gradient(model: detrkit.Detector) -> None:
    """A parameter without one would stop training on several devices; an image without objects must not change that."""
    model.zero_grad()
    model.query_source.train()  # what is there in training only
    try:
        output = model(ImageBatch(images()), some_targets())
    finally:
        model.eval()
    detrkit.criterion_for(model)(output, some_targets()).total.backward()
    without = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
    frozen = [name for name, value in model.named_parameters() if not value.requires_grad and value.grad is not None]
    broken = [
        name for name, value in model.named_parameters() if value.grad is not None and not value.grad.isfinite().all()
    ]
    assert (without, frozen, broken) == ([], [], [])
    model.zero_grad()


def test_export(model: detrkit.Detector) -> None:
    """One graph for every batch and image size, the same numbers out. Fewer layers, since further ones add only time."""
    config = config_of(model)
    fewer = {"encoder_layers": min(config.encoder_layers, 1), "decoder_layers": 2}
    shallow = detrkit.build(model.card.variant, classes=["cat", "dog", "bird"], **fewer).eval()
    wanted = shallow.state_dict()
    shallow.load_state_dict({name: value for name, value in model.state_dict().items() if name in wanted})
    batch_size, size = torch.export.Dim("batch", min=1), torch.export.Dim.DYNAMIC
    shapes = [{0: batch_size, 2: size, 3: size}, {0: batch_size, 1: size, 2: size}]
    example = ImageBatch(images(), padding_of((HEIGHT, 100), (97, WIDTH)))
    program = torch.export.export(shallow, (example,), dynamic_shapes=(shapes,)).module()
    for count, height, width in ((1, 96, 192), (3, 160, 130)):
        inside = padding_of(*([(height, width)] * (count - 1)), (height - 30, width), height=height, width=width)
        batch = ImageBatch(images(height, width, count, seed=5), inside)
        with torch.no_grad():
            assert_close(program(batch), shallow(batch), 1e-4)


@torch.no_grad()
def test_forward_gives_the_last_of_the_stages(model: detrkit.Detector, expected: Stages) -> None:
    padded = ImageBatch(images(), padding_of((HEIGHT, 100), (97, WIDTH)))
    for batch, wanted in ((ImageBatch(images()), expected.output), (padded, model.stages(padded).output)):
        output = model(batch)
        assert torch.equal(output.logits, wanted.logits)
        assert torch.equal(output.boxes_cxcywh, wanted.boxes_cxcywh)
        assert (output.proposals is None) == (wanted.proposals is None)
        if output.proposals is not None:
            assert torch.equal(output.proposals.boxes_cxcywh, wanted.proposals.boxes_cxcywh)


@torch.no_grad()
def test_mixed_precision_keeps_coordinates_in_float32(model: detrkit.Detector, expected: Stages) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model.stages(ImageBatch(images()))
        # Rounding may change which proposals are best, so that boxes are compared for the same queries.
        output = model.heads(model.decoder(expected.queries, found.memory, model.heads))
    pairs = [(output, expected.output)]
    if found.output.proposals is not None and expected.output.proposals is not None:
        pairs.append((found.output.proposals, expected.output.proposals))
    for ours, wanted in pairs:
        assert ours.boxes_cxcywh.dtype is torch.float32
        assert (ours.boxes_cxcywh - wanted.boxes_cxcywh).abs().max() < 0.05
    assert all(references.dtype is torch.float32 for references in found.decoded.references)


@torch.no_grad()
def test_own_file_gives_the_same_model(model: detrkit.Detector, expected: Stages, tmp_path: Path) -> None:
    again = detrkit.load(detrkit.save(model, tmp_path / "model.safetensors"))
    assert again.card == model.card
    state = again.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert_close(again(ImageBatch(images())), expected.output, 1e-5)  # rounding depends on where weights lie in memory


def test_official_names_and_back(model: detrkit.Detector) -> None:
    state = model.state_dict()
    official = detrkit.checkpoints.to_official(state, model)
    back = detrkit.checkpoints.from_official(official, model)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], value) for name, value in state.items())


@torch.no_grad()
def test_float64_works(model: detrkit.Detector, expected: Stages) -> None:
    copy = detrkit.build(model.card.variant, classes=["cat", "dog", "bird"]).eval()
    copy.load_state_dict(model.state_dict())
    copy = copy.to(torch.float64)
    output = copy(ImageBatch(images().double()))
    assert output.logits.dtype is output.boxes_cxcywh.dtype is torch.float64
    found = output.to(dtype=torch.float32)
    if found.proposals is not None:
        found = in_the_order_of(expected.output, found)
    torch.testing.assert_close(found.boxes_cxcywh, expected.output.boxes_cxcywh, atol=1e-3, rtol=1e-3)


def test_selection_reports_only_named_classes(model: detrkit.Detector, expected: Stages) -> None:
    found = selection_for(model)(expected.output, torch.tensor([[100, 200], [50, 60]]))
    named = {category.index for category in model.card.categories}
    for detections in found:
        assert set(detections.labels.tolist()) <= named
        assert detections.scores.diff().max() <= 0
