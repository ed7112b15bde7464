"""SMCA-DETR: Gaussians cell by cell, the centres that queries guess, and what layers make of both."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import pytest
import torch
from models.by_heart import assert_learns_by_heart
from models.small_deformable_detr import batch
from torch import Tensor, nn

from detrkit.errors import ConfigurationError, NonFiniteError
from detrkit.models import smca_detr
from detrkit.models.catalog import build, criterion_for, selection_for
from detrkit.models.detector import Detector
from detrkit.models.smca_detr import Config, Gaussian
from detrkit.prediction.predictor import detect_batch
from detrkit.structures import LayerOutput, Memory

WIDTH, HEADS = 64, 4
SMALL = {"width": WIDTH, "hidden": 64, "attention_heads": HEADS, "encoder_layers": 1, "decoder_layers": 3, "queries": 6}
KINDS = (0, 1, 2, 3)


def small(**changes: Any) -> Detector:
    """In float64 and eval mode; scales and norms differ from their initial values."""
    model = build("smca-detr-compact", classes=["a", "b", "c"], **(SMALL | changes))
    nn.init.normal_(model.heads.box_head.output.weight, std=0.2)
    for name, value in model.decoder.named_parameters():
        if "norm" in name or "gaussian.scale" in name:
            nn.init.normal_(value, mean=0.5, std=0.2)
    return model.double().eval()


def distance(x: float, y: float, scales: list[float]) -> float:
    """Of a cell that lies at (x, y) from the centre, in the authors' four forms."""
    if not scales:
        return x**2 + y**2
    if len(scales) == 1:
        return (x**2 + y**2) * scales[0] ** 2
    scaled = (x * scales[0]) ** 2 + (y * scales[1]) ** 2
    return scaled if len(scales) == 2 else scaled + (x * y * scales[2]) ** 2


def memory_of(sizes: list[list[float]], size: tuple[int, int] = (3, 5), width: int = 8) -> Memory:
    tokens = torch.randn(len(sizes), size[0] * size[1], width, dtype=torch.float64)
    return Memory.of(tokens, torch.randn_like(tokens), None, (size,), torch.tensor(sizes))


def gradient(value: Tensor, source: Tensor) -> Tensor | None:
    return torch.autograd.grad(value.sum(), source, allow_unused=True, retain_graph=True)[0]


class TestPublishedModels:
    def test_the_defaults_are_the_papers(self) -> None:
        config = Config()
        assert (config.class_count, config.queries, config.width, config.attention_heads) == (92, 300, 256, 8)
        assert (config.hidden, config.encoder_layers, config.decoder_layers, config.dropout) == (2048, 6, 6, 0.1)
        assert (config.scales, config.smooth, config.learn_queries) == (2, 8.0, True)
        assert config.term_weights == {"class": 2.0, "l1": 5.0, "giou": 2.0}

    def test_variants(self) -> None:
        for name, scales in (("", 2), ("-type1", 0), ("-type2", 1), ("-type4", 3)):
            variant = smca_detr.VARIANTS[f"smca-detr-r50{name}"]
            assert variant.config == Config(scales=scales)
            assert (variant.recipe.epochs, variant.recipe.batch_size, variant.recipe.drop_after) == (50, 16, 0.8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scales": 4}, "scales must be 0, 1, 2 or 3, not 4"),
        ({"scales": -1}, "scales must be at least 0, not -1"),
        ({"smooth": 0.0}, "smooth must be above 0, not 0.0: distances are divided by it"),
        ({"smooth": -8.0}, "smooth must be above 0, not -8.0: distances are divided by it"),
        ({"smooth": math.nan}, "smooth must be a finite number, not nan"),
        ({"smooth": math.inf}, "smooth must be a finite number, not inf"),
    ],
)
def test_settings_that_no_model_can_have(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Config(**changes)
    assert str(caught.value) == message


class TestStart:
    @pytest.mark.parametrize("scales", KINDS)
    def test_all_places_have_the_same_size(self, scales: int) -> None:
        model = build("smca-detr-compact", classes=["a"], **SMALL, scales=scales)
        for layer in model.decoder.layers:
            assert layer.gaussian.offset.weight.shape == (2 * HEADS, WIDTH)
            if scales == 0:
                assert layer.gaussian.scale is None
                continue
            assert layer.gaussian.scale.weight.shape == (scales * HEADS, WIDTH)
            assert not layer.gaussian.scale.weight.any()
            assert layer.gaussian.scale.bias.tolist() == [1.0] * (scales * HEADS)

    def test_matrices_of_encoder_and_decoder_are_xavier(self) -> None:
        model = build("smca-detr-compact", classes=["a"], **SMALL)
        for part in (model.encoder, model.decoder):
            for name, value in part.named_parameters():
                if value.dim() > 1 and "gaussian.scale" not in name:
                    bound = math.sqrt(6 / sum(value.shape))
                    assert 0.9 * bound < value.abs().max().item() <= bound, name
        bias = model.heads.class_head.bias
        torch.testing.assert_close(bias.sigmoid(), torch.full_like(bias, 0.01))


class TestGaussian:
    @pytest.mark.parametrize("scales", KINDS)
    def test_of_every_head_query_and_cell(self, scales: int) -> None:
        gaussian = Gaussian(width=8, attention_heads=2, scales=scales, smooth=6.0, stride=16).double()
        # The second image fills neither the map nor a whole number of cells.
        memory = memory_of([[80.0, 48.0], [50.0, 24.0]])
        states, references = torch.randn(2, 3, 8).double(), torch.rand(2, 3, 2).double()
        found = gaussian(states, references, memory)
        assert found.shape == (2, 2, 3, 15)
        for image, head, query in itertools.product(range(2), range(2), range(3)):
            offset = gaussian.offset(states[image, query]).view(2, 2)[head].tolist()
            numbers = [] if not scales else gaussian.scale(states[image, query]).view(2, scales)[head].tolist()
            sizes = memory.image_sizes[image].tolist()
            center = [references[image, query, axis].item() * sizes[axis] / 16 + offset[axis] for axis in range(2)]
            for row, column in itertools.product(range(3), range(5)):
                wanted = -distance(column - center[0], row - center[1], numbers) / 6.0
                assert found[image, head, query, row * 5 + column].item() == pytest.approx(wanted, rel=1e-6, abs=1e-9)

    def test_centers_stay_in_float32_with_few_digits(self) -> None:
        gaussian = Gaussian(width=8, attention_heads=2, scales=2, smooth=8.0, stride=16)
        states, references, memory = torch.randn(1, 3, 8), torch.rand(1, 3, 2), memory_of([[80.0, 48.0]])
        wanted = gaussian(states, references, memory)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = gaussian(states, references, memory)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, wanted)

    def test_its_stride_is_the_levels(self) -> None:
        for backbone, stride in (("compact-c4", 16), ("compact", 32)):
            model = build("smca-detr-compact", classes=["a"], **SMALL | {"backbone": backbone})
            assert [layer.gaussian.stride for layer in model.decoder.layers] == [stride] * 3
            assert model.backbone.strides == (stride,)

    def test_smooth_is_the_setting(self) -> None:
        assert [layer.gaussian.smooth for layer in small(smooth=3.0).decoder.layers] == [3.0] * 3

    def test_offsets_and_scales_learn_and_teach_what_decides_on_them(self) -> None:
        gaussian = Gaussian(width=8, attention_heads=2, scales=3, smooth=8.0, stride=16).double()
        states = torch.randn(1, 3, 8).double().requires_grad_()
        references = torch.rand(1, 3, 2).double().requires_grad_()
        found = gaussian(states, references, memory_of([[80.0, 48.0]]))
        for source in (states, references, gaussian.offset.weight, gaussian.scale.weight):
            assert gradient(found, source).abs().max() > 1e-6


class TestDecoder:
    @pytest.mark.parametrize("scales", KINDS)
    def test_layer_by_layer(self, scales: int) -> None:
        model = small(scales=scales)
        stages = model.stages(batch())
        memory, decoder = stages.memory, model.decoder
        assert memory.padding.any()
        content, position = torch.zeros(2, 6, WIDTH).double(), model.query_source.position.weight.expand(2, -1, -1)
        logits = decoder.center_head(decoder.layers[0].gaussian_norm(position))
        for index, layer in enumerate(decoder.layers):
            states = layer.gaussian_norm(content + position)
            seen = layer.self_attention(content + position, content + position, content)
            content = layer.self_norm(content + seen)
            bias = layer.gaussian(states, logits.sigmoid(), memory)
            bias = bias.masked_fill(memory.padding[:, None, None], -torch.inf)
            keys = memory.tokens + memory.positions
            content = layer.cross_norm(content + layer.cross_attention(content + position, keys, memory.tokens, bias))
            content = layer.feed_forward(content)
            normed = decoder.norm(content)
            torch.testing.assert_close(stages.decoded.states[index], normed)
            torch.testing.assert_close(stages.decoded.references[index], logits.sigmoid())
            boxes = (model.heads.box_head(normed) + nn.functional.pad(logits, (0, 2))).sigmoid()
            torch.testing.assert_close(stages.output.boxes_cxcywh[index], boxes)
            torch.testing.assert_close(stages.output.logits[index], model.heads.class_head(normed))

    def test_boxes_of_all_layers_teach_centers(self) -> None:
        model = small()
        stages = model.stages(batch())
        sources = [model.decoder.center_head.layers[0].weight, model.query_source.position.weight]
        sources += [model.decoder.layers[0].gaussian_norm.weight]
        for base in stages.decoded.base_logits:
            for source in sources:
                assert gradient(base, source).abs().max() > 1e-6
        looked = gradient(stages.decoded.states[0], model.decoder.center_head.layers[0].weight)
        assert looked.abs().max() > 1e-8  # also by where the Gaussian lies

    def test_a_query_mask_keeps_queries_apart(self) -> None:
        model = small()
        stages = model.stages(batch())
        queries = stages.queries
        mask = torch.ones(1, 1, 6, 6, dtype=torch.bool)
        mask[..., :4, 4:], mask[..., 4:, :4] = False, False
        apart = model.decoder(dataclasses.replace(queries, mask=mask), stages.memory, model.heads)
        parts = {name: getattr(queries, name)[:, :4] for name in ("content", "position")}
        alone = model.decoder(dataclasses.replace(queries, **parts), stages.memory, model.heads)
        torch.testing.assert_close(apart.states[:, :, :4], alone.states)
        assert (apart.states - stages.decoded.states).abs().max() > 1e-3

    def test_queries_can_stay_as_they_are(self) -> None:
        model = small(learn_queries=False)
        assert not model.query_source.position.weight.requires_grad
        assert all(value.requires_grad for value in model.decoder.parameters())


class TestCriterionAndSelection:
    def test_weights(self) -> None:
        criterion = smca_detr.criterion(Config(class_count=3, decoder_layers=2))
        weights = {"class": 2.0, "l1": 5.0, "giou": 2.0}
        assert criterion.weights == {f"layers.{layer}.{name}": weights[name] for layer in range(2) for name in weights}
        assert {name: weight for name, (_, weight) in criterion.matcher.terms.items()} == weights
        changed = criterion_for(small(l1_weight=0.5))
        assert changed.weights["layers.2.l1"] == changed.matcher.terms["l1"][1] == 0.5

    def test_as_many_detections_as_queries(self) -> None:
        output = LayerOutput(torch.randn(1, 6, 3), torch.rand(1, 6, 4))
        (found,) = selection_for(small())(output, torch.tensor([[10, 10]]))
        torch.testing.assert_close(found.scores, output.logits.flatten().sigmoid().sort(descending=True).values[:6])


@pytest.mark.parametrize("part", ["query_source", "encoder", "decoder", "decoder.layers.0.gaussian.scale"])
def test_nan_is_reported(part: str) -> None:
    model = small()
    with torch.no_grad():
        next(model.get_submodule(part).parameters()).fill_(torch.nan)
    images = dataclasses.replace(batch(), original_sizes=torch.tensor([[64, 96], [48, 56]]))
    with pytest.raises(NonFiniteError, match="scores or boxes that are NaN or infinite"):
        detect_batch(model, selection_for(model), images)


def test_a_batch_is_learned_by_heart() -> None:
    assert_learns_by_heart(build("smca-detr-compact", classes=["a", "b", "c"]), steps=60, clip=1.0)
