"""What every entry of the catalog has to keep, whatever its paper: adding a variant adds its tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import detrkit
from detrkit.backbones.resnet import ResNet
from detrkit.layers.frozen_batch_norm import FrozenBatchNorm2d
from detrkit.models.catalog import CATALOG, selection_for
from detrkit.models.detector import flatten_levels
from detrkit.structures import FeatureMap, ImageBatch, Memory, Queries, Target

# Variants whose results change a little when an image is padded, beyond what padding does to a convolution at the image's border.
PADDING_EXCEPTIONS: dict[str, str] = {}


@pytest.fixture(scope="module", params=list(CATALOG))
def model(request: pytest.FixtureRequest) -> detrkit.Detector:
    torch.manual_seed(0)
    detector = detrkit.build(request.param, classes=["cat", "dog", "bird"]).eval()
    for module in detector.modules():
        if isinstance(module, FrozenBatchNorm2d) and isinstance(detector.backbone, ResNet):
            module.weight.fill_(
                0.5
            )  # random weights under norms that do nothing would overflow in a deep residual network
    return detector


def images(height: int = 160, width: int = 224, count: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def padding_of(*sizes: tuple[int, int], height: int = 160, width: int = 224) -> torch.Tensor:
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


@torch.no_grad()
def test_nothing_behind_padding_matters(model: detrkit.Detector) -> None:
    padding = padding_of((160, 150), (97, 224))
    pixels = images()
    other = torch.where(padding[:, None], torch.full_like(pixels, 1e4), pixels)
    first, second = model(ImageBatch(pixels, padding)), model(ImageBatch(other, padding))
    assert torch.equal(first.logits, second.logits)
    assert torch.equal(first.boxes_cxcywh, second.boxes_cxcywh)
    shown = torch.where(
        torch.arange(160)[:, None] < 40, -pixels, pixels
    )  # pixels that are not behind padding do matter
    assert not torch.equal(first.logits, model(ImageBatch(shown, padding)).logits)


@torch.no_grad()
def test_padding_none_is_padding_nowhere(model: detrkit.Detector) -> None:
    without, nowhere = (
        model(ImageBatch(images())),
        model(ImageBatch(images(), torch.zeros(2, 160, 224, dtype=torch.bool))),
    )
    torch.testing.assert_close(without.logits, nowhere.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(without.boxes_cxcywh, nowhere.boxes_cxcywh, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_permuted_queries_give_permuted_results(model: detrkit.Detector) -> None:
    stages = model.stages(ImageBatch(images()))
    order = torch.randperm(stages.queries.content.shape[1], generator=torch.Generator().manual_seed(3))
    permuted = Queries(stages.queries.content[:, order], stages.queries.position[:, order])
    output = model.heads(model.decoder(permuted, stages.memory, model.heads))
    torch.testing.assert_close(output.logits, stages.output.logits[:, :, order], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(output.boxes_cxcywh, stages.output.boxes_cxcywh[:, :, order], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_images_of_a_batch_do_not_see_each_other(model: detrkit.Detector) -> None:
    both = model(ImageBatch(images()))
    for row in range(2):
        alone = model(ImageBatch(images()[row : row + 1]))
        torch.testing.assert_close(alone.logits[:, 0], both.logits[:, row], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(alone.boxes_cxcywh[:, 0], both.boxes_cxcywh[:, row], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_tokens_behind_padding_are_not_looked_at(model: detrkit.Detector) -> None:
    """Encoder and decoder give for a padded batch what they give for each image alone; only convolutions see the border."""
    if model.card.variant in PADDING_EXCEPTIONS:
        pytest.skip(PADDING_EXCEPTIONS[model.card.variant])
    stride = model.backbone.strides[-1]
    rows, columns = 5, 7
    padding = padding_of((rows, columns - 2), height=rows, width=columns)
    features = torch.randn(1, model.backbone.channels[-1], rows, columns, generator=torch.Generator().manual_seed(4))

    def run(values: torch.Tensor, inside: torch.Tensor | None) -> Memory:
        return model.encoder(flatten_levels(model.neck((FeatureMap(values, inside, stride),))))

    padded, alone = run(features, padding), run(features[..., : columns - 2], None)
    queries = model.query_source(alone)
    whole = model.heads(model.decoder(queries, padded, model.heads))
    single = model.heads(model.decoder(queries, alone, model.heads))
    torch.testing.assert_close(padded.maps()[0][..., : columns - 2], alone.maps()[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(whole.logits, single.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(whole.boxes_cxcywh, single.boxes_cxcywh, atol=1e-5, rtol=1e-4)


def test_every_parameter_gets_a_gradient(model: detrkit.Detector) -> None:
    """A parameter without one would stop training on several devices; an image without objects must not change that."""
    model.zero_grad()
    detrkit.criterion_for(model)(model(ImageBatch(images())), some_targets()).total.backward()
    without = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
    frozen = [name for name, value in model.named_parameters() if not value.requires_grad and value.grad is not None]
    broken = [
        name for name, value in model.named_parameters() if value.grad is not None and not value.grad.isfinite().all()
    ]
    assert (without, frozen, broken) == ([], [], [])
    model.zero_grad()


def test_export(model: detrkit.Detector) -> None:
    """One graph for every batch and image size, the same numbers out."""
    padding = padding_of((160, 150), (97, 224))
    batch_size, size = torch.export.Dim("batch", min=1), torch.export.Dim.DYNAMIC
    shapes = [{0: batch_size, 2: size, 3: size}, {0: batch_size, 1: size, 2: size}]
    program = torch.export.export(model, (ImageBatch(images(), padding),), dynamic_shapes=(shapes,)).module()
    for count, height, width in ((1, 128, 256), (3, 192, 130)):
        inside = padding_of(*([(height, width)] * (count - 1)), (height - 30, width), height=height, width=width)
        batch = ImageBatch(images(height, width, count, seed=5), inside)
        with torch.no_grad():
            exported, expected = program(batch), model(batch)
        torch.testing.assert_close(exported.logits, expected.logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(exported.boxes_cxcywh, expected.boxes_cxcywh, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_mixed_precision_keeps_coordinates_in_float32(model: detrkit.Detector) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(ImageBatch(images()))
    assert output.boxes_cxcywh.dtype is torch.float32
    expected = model(ImageBatch(images()))
    assert (output.boxes_cxcywh - expected.boxes_cxcywh).abs().max() < 0.05


@torch.no_grad()
def test_own_file_gives_the_same_model(model: detrkit.Detector, tmp_path: Path) -> None:
    again = detrkit.load(detrkit.save(model, tmp_path / "model.safetensors"))
    assert again.card == model.card
    first, second = model(ImageBatch(images())), again(ImageBatch(images()))
    assert torch.equal(first.logits, second.logits)
    assert torch.equal(first.boxes_cxcywh, second.boxes_cxcywh)


def test_official_names_and_back(model: detrkit.Detector) -> None:
    state = model.state_dict()
    official = detrkit.checkpoints.to_official(state, model)
    back = detrkit.checkpoints.from_official(official, model)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], value) for name, value in state.items())


@torch.no_grad()
def test_float64_works(model: detrkit.Detector) -> None:
    copy = detrkit.build(model.card.variant, classes=["cat", "dog", "bird"]).eval()
    copy.load_state_dict(model.state_dict())
    copy = copy.to(torch.float64)
    output = copy(ImageBatch(images().double()))
    assert output.logits.dtype is output.boxes_cxcywh.dtype is torch.float64
    torch.testing.assert_close(
        output.boxes_cxcywh.float(), model(ImageBatch(images())).boxes_cxcywh, atol=1e-3, rtol=1e-3
    )


@torch.no_grad()
def test_selection_reports_only_named_classes(model: detrkit.Detector) -> None:
    found = selection_for(model)(model(ImageBatch(images())), torch.tensor([[100, 200], [50, 60]]))
    named = {category.index for category in model.card.categories}
    for detections in found:
        assert set(detections.labels.tolist()) <= named
        assert detections.scores.diff().max() <= 0
