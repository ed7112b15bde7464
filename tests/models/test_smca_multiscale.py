"""SMCA-DETR with several levels: what levels pass to each other, a Gaussian on each, and how much each of them counts."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from models.by_heart import assert_learns_by_heart
from models.small_deformable_detr import batch
from models.test_smca_detr import distance, gradient
from torch import nn

from detrkit.errors import ConfigurationError, NonFiniteError
from detrkit.layers.attention import MultiHeadAttention
from detrkit.layers.padding import shrink_padding
from detrkit.models import smca_detr, smca_multiscale
from detrkit.models.catalog import build, selection_for
from detrkit.models.detector import Detector
from detrkit.models.smca_multiscale import Config, ConvolutionalEncoderLayer, LevelGaussians
from detrkit.prediction.predictor import detect_batch
from detrkit.structures import ImageBatch, LayerOutput, Memory

WIDTH, HEADS = 64, 4
SMALL = {"width": WIDTH, "hidden": 64, "attention_heads": HEADS, "encoder_layers": 1, "decoder_layers": 2, "queries": 6}
SIZES = ((6, 8), (3, 4), (2, 2))


def small(**changes: Any) -> Detector:
    """In float64 and eval mode; scales, weights of levels and norms differ from their initial values."""
    model = build("smca-detr-compact-multiscale", classes=["a", "b", "c"], **(SMALL | changes))
    nn.init.normal_(model.heads.box_head.output.weight, std=0.2)
    for name, value in model.decoder.named_parameters():
        if "norm" in name or "gaussian.scale" in name or "gaussian.level" in name:
            nn.init.normal_(value, mean=0.5, std=0.2)
    return model.double().eval()


def memory_of(images: int = 2, width: int = 8) -> Memory:
    """Levels of stride 8, 16 and 32; the second image is smaller."""
    count = sum(height * columns for height, columns in SIZES)
    tokens = torch.randn(images, count, width, dtype=torch.float64)
    paddings = []
    for height, columns in SIZES:
        padding = torch.zeros(images, height, columns, dtype=torch.bool)
        padding[1:, -1], padding[1:, :, -1] = True, True
        paddings.append(padding.flatten(1))
    sizes = torch.tensor([[64.0, 48.0], [52.0, 40.0]])[:images]
    return Memory.of(tokens, torch.randn_like(tokens), torch.cat(paddings, dim=1), SIZES, sizes)


class TestPublishedModel:
    def test_the_defaults_are_the_authors(self) -> None:
        config = Config()
        assert (config.levels, config.hidden, config.encoder_layers, config.decoder_layers) == (4, 1024, 6, 6)
        assert (config.class_count, config.queries, config.scales, config.smooth) == (92, 300, 2, 8.0)
        variant = smca_multiscale.VARIANTS["smca-detr-r50-multiscale"]
        assert variant.config == Config()
        assert (variant.recipe.epochs, variant.recipe.batch_size) == (50, 16)

    def test_five_hundred_detections(self) -> None:
        output = LayerOutput(torch.randn(1, 300, 3), torch.rand(1, 300, 4))
        (found,) = selection_for(small())(output, torch.tensor([[10, 10]]))
        torch.testing.assert_close(found.scores, output.logits.flatten().sigmoid().sort(descending=True).values[:500])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"levels": 1}, "levels must be at least 2, not 1"),
        ({"scales": 4}, "scales must be 0, 1, 2 or 3, not 4"),
        ({"smooth": 0.0}, "smooth must be above 0, not 0.0: distances are divided by it"),
    ],
)
def test_settings_that_no_model_can_have(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Config(**changes)
    assert str(caught.value) == message


def test_a_dilated_backbone_has_no_level_of_twice_the_stride() -> None:
    with torch.device("meta"), pytest.raises(ConfigurationError) as caught:
        build("smca-detr-r50-multiscale", backbone="resnet50-dc5")
    assert str(caught.value) == (
        "'resnet50-dc5' has maps of stride 8, 16, 16, but each must have twice the stride of the one before: choose another backbone, "
        "without dilation"
    )


class TestStart:
    def test_all_places_have_the_same_size(self) -> None:
        model = build("smca-detr-compact-multiscale", classes=["a"], **SMALL, scales=3)
        for layer in model.decoder.layers:
            assert layer.gaussian.offset.weight.shape == (3 * 2 * HEADS, WIDTH)
            assert layer.gaussian.level.weight.shape == (3, WIDTH)
            assert not layer.gaussian.scale.weight.any()
            assert layer.gaussian.scale.bias.tolist() == [1.0] * (3 * 3 * HEADS)
        bias = model.heads.class_head.bias
        torch.testing.assert_close(bias.sigmoid(), torch.full_like(bias, 0.01))

    def test_levels_have_no_norms(self) -> None:
        model = small()
        assert [[type(part) for part in each] for each in model.neck.projections] == [[nn.Conv2d]] * 3
        assert model.backbone.strides == (8, 16, 32)

    @pytest.mark.parametrize(("levels", "strides"), [(2, (32, 32)), (3, (16, 16, 32)), (4, (16, 16, 32, 64))])
    def test_the_finest_level_becomes_as_coarse_as_the_second(self, levels: int, strides: tuple[int, ...]) -> None:
        model = small(levels=levels)
        for layer in model.decoder.layers:
            assert layer.gaussian.strides == strides
            assert layer.gaussian.smooth == tuple(8.0 * 32 / stride for stride in strides)
        pixels = torch.randn(1, 3, 128, 192, dtype=torch.float64)
        sizes = model.stages(ImageBatch(pixels)).memory.level_sizes
        assert sizes == tuple((128 // stride, 192 // stride) for stride in strides)


def test_the_padding_of_an_added_level_comes_from_the_level_before() -> None:
    """Of 160 rows 100 are the image's: of three rows of stride 64, those of the level before end at 96, those of the image at 106."""
    model = small(levels=4)
    images = ImageBatch(torch.randn(1, 3, 160, 128, dtype=torch.float64), torch.zeros(1, 160, 128, dtype=torch.bool))
    images.padding[:, 100:], images.padding[:, :, 60:] = True, True
    levels = model.neck(model.backbone(images), images.padding)
    before, added = levels.paddings[2], levels.paddings[3]
    assert torch.equal(added, shrink_padding(before, levels.maps[3]))
    assert not torch.equal(added, shrink_padding(images.padding, levels.maps[3]))
    assert added[0].tolist() == [[False, True]] * 3


class TestEncoder:
    def test_levels_look_around_and_to_their_neighbours(self) -> None:
        layer = ConvolutionalEncoderLayer(width=8, levels=3, hidden=16, dropout=0.0).double()
        memory = memory_of()
        places = dataclasses.replace(memory, tokens=memory.tokens + memory.positions)
        seen = [F.conv2d(layer.enter(level), layer.within[index].weight, layer.within[index].bias, padding=3, groups=8)
                for index, level in enumerate(places.maps())]  # fmt: skip
        mixed = []
        for index, level in enumerate(seen):
            total = level
            if index < 2:
                finer = F.conv2d(seen[index + 1], layer.to_finer.weight, layer.to_finer.bias, padding=3, groups=8)
                total = total + F.interpolate(finer, size=level.shape[-2:], mode="bilinear", align_corners=True)
            if index > 0:
                own = layer.to_coarser
                total = total + F.conv2d(seen[index - 1], own.weight, own.bias, stride=2, padding=3, groups=8)
            mixed.append(layer.leave(total).flatten(2).transpose(1, 2))
        wanted = layer.feed_forward(layer.norm(memory.tokens + torch.cat(mixed, dim=1)))
        torch.testing.assert_close(layer(memory), wanted)

    def test_the_finest_level_takes_the_place_of_the_second(self) -> None:
        encoder = smca_multiscale.encoder(Config(width=8, attention_heads=2, hidden=16, levels=3, encoder_layers=2))
        encoder, memory = encoder.double().eval(), memory_of()
        codes = torch.cat([encoder.level_code[level].expand(h * w, -1) for level, (h, w) in enumerate(SIZES)])
        encoded = dataclasses.replace(memory, positions=memory.positions + codes)
        for layer in encoder.layers:
            encoded = dataclasses.replace(encoded, tokens=layer(encoded))
        found = encoder(memory)
        assert found.level_sizes == (SIZES[1], *SIZES[1:])
        for level in (1, 2):
            for name in ("tokens", "positions", "padding"):
                torch.testing.assert_close(getattr(found.level(level), name), getattr(encoded.level(level), name))
        first = encoder.reduce(encoded.maps()[0])
        torch.testing.assert_close(found.maps()[0], first)
        torch.testing.assert_close(found.level(0).positions, encoded.level(1).positions)
        assert torch.equal(found.level(0).padding, memory.level(1).padding)
        assert torch.equal(found.valid_sizes[1], torch.tensor([[3.0, 2.0], [3.0, 2.0], [1.0, 1.0]]))

    def test_nothing_is_padded(self) -> None:
        memory = dataclasses.replace(memory_of(), padding=None)
        found = smca_multiscale.encoder(Config(width=8, attention_heads=2, hidden=16, levels=3)).double()(memory)
        assert found.padding is None


class TestGaussians:
    @pytest.mark.parametrize("scales", [0, 1, 2, 3])
    def test_of_every_level_head_query_and_cell(self, scales: int) -> None:
        strides = (16, 16, 32)
        gaussians = LevelGaussians(width=8, attention_heads=2, scales=scales, smooth=6.0, strides=strides).double()
        memory = dataclasses.replace(memory_of(), level_sizes=(SIZES[1], *SIZES[1:]))
        states, references = torch.randn(2, 3, 8).double(), torch.rand(2, 3, 2).double()
        found = gaussians(states, references, memory)
        assert [each.shape for each in found] == [(2, 2, 3, h * w) for h, w in memory.level_sizes]
        for level, image, head, query in itertools.product(range(3), range(2), range(2), range(3)):
            place = level * 2 + head  # all heads of the first level come first
            offset = gaussians.offset(states[image, query]).view(6, 2)[place].tolist()
            numbers = [] if not scales else gaussians.scale(states[image, query]).view(6, scales)[place].tolist()
            sizes, stride = memory.image_sizes[image].tolist(), strides[level]
            center = [references[image, query, axis].item() * sizes[axis] / stride + offset[axis] for axis in range(2)]
            height, width = memory.level_sizes[level]
            for row, column in itertools.product(range(height), range(width)):
                wanted = -distance(column - center[0], row - center[1], numbers) / (6.0 * 32 / stride)
                value = found[level][image, head, query, row * width + column].item()
                assert value == pytest.approx(wanted, rel=1e-6, abs=1e-9)

    def test_queries_weigh_levels(self) -> None:
        gaussians = LevelGaussians(width=8, attention_heads=2, scales=2, smooth=8.0, strides=(16, 16, 32)).double()
        states = torch.randn(2, 3, 8).double()
        scores = gaussians.level(states).exp()
        torch.testing.assert_close(gaussians.level_weights(states), scores / scores.sum(-1, keepdim=True))


class TestDecoder:
    def test_attention_on_each_level_is_weighed(self) -> None:
        model = small(levels=4)
        memory = model.stages(batch()).memory
        layer = model.decoder.layers[1]
        states, query = torch.randn(2, 6, WIDTH).double(), torch.randn(2, 6, WIDTH).double()
        references = torch.rand(2, 6, 2).double()
        scores = layer.gaussian.level(states).softmax(-1)
        wanted = torch.zeros_like(query)
        for index, bias in enumerate(layer.gaussian(states, references, memory)):
            level = memory.level(index)
            assert level.padding.any() or index == 3
            bias = bias.masked_fill(level.padding[:, None, None], -torch.inf)
            keys = level.tokens + level.positions
            seen = MultiHeadAttention.forward(layer.cross_attention, query, keys, level.tokens, bias)
            wanted = wanted + scores[..., index : index + 1] * seen
        torch.testing.assert_close(layer.look(states, query, memory, references), wanted)

    def test_each_image_weighs_levels_for_itself(self) -> None:
        """The authors take the first image's weights for the whole batch."""
        model = small()
        pixels = torch.randn(2, 3, 64, 96, dtype=torch.float64)
        both = model(ImageBatch(pixels))
        for image in range(2):
            alone = model(ImageBatch(pixels[image : image + 1]))
            torch.testing.assert_close(both.logits[:, image : image + 1], alone.logits)
            torch.testing.assert_close(both.boxes_cxcywh[:, image : image + 1], alone.boxes_cxcywh)
        states = torch.randn(2, 6, WIDTH).double()
        weights = model.decoder.layers[1].gaussian.level_weights(states)
        assert (weights[0] - weights[1]).abs().max() > 1e-2

    def test_boxes_are_relative_to_centers(self) -> None:
        model = small()
        stages = model.stages(batch())
        decoder = model.decoder
        logits = decoder.center_head(decoder.layers[0].gaussian_norm(model.query_source.position.weight))
        base = F.pad(logits, (0, 2))
        for index, states in enumerate(stages.decoded.states):
            boxes = (model.heads.box_head(states) + base).sigmoid()
            torch.testing.assert_close(stages.output.boxes_cxcywh[index], boxes)
            torch.testing.assert_close(stages.decoded.references[index], logits.sigmoid().expand(2, -1, -1))

    def test_weights_of_levels_learn(self) -> None:
        model = small()
        logits = model(batch()).logits
        for layer in model.decoder.layers:
            assert gradient(logits, layer.gaussian.level.weight).abs().max() > 1e-6


@pytest.mark.parametrize("part", ["query_source", "encoder", "decoder", "decoder.layers.1.gaussian.level"])
def test_nan_is_reported(part: str) -> None:
    model = small()
    with torch.no_grad():
        next(model.get_submodule(part).parameters()).fill_(torch.nan)
    images = dataclasses.replace(batch(), original_sizes=torch.tensor([[64, 96], [48, 56]]))
    with pytest.raises(NonFiniteError, match="scores or boxes that are NaN or infinite"):
        detect_batch(model, selection_for(model), images)


def test_the_criterion_is_that_of_a_single_level() -> None:
    assert smca_multiscale.criterion is smca_detr.criterion


def test_a_batch_is_learned_by_heart() -> None:
    assert_learns_by_heart(build("smca-detr-compact-multiscale", classes=["a", "b", "c"]), steps=80, clip=1.0)
