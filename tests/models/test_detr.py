"""DETR as in the paper: sizes, initialisation, and how its decoder treats queries."""

from __future__ import annotations

import math

import pytest
import torch

from detrkit.models import detr
from detrkit.models.catalog import build
from detrkit.models.detector import Detector
from detrkit.structures import ImageBatch, Queries

SMALL = {"width": 64, "hidden": 64, "attention_heads": 4, "encoder_layers": 1, "decoder_layers": 3, "queries": 5}


@pytest.fixture
def model() -> Detector:
    return build("detr-compact", classes=["a", "b", "c"], **SMALL).double().eval()


def batch() -> ImageBatch:
    return ImageBatch(torch.randn(2, 3, 64, 48, dtype=torch.float64))


@pytest.mark.parametrize(
    ("variant", "parameters"),
    [("detr-r50", 41_524_768), ("detr-r50-dc5", 41_524_768), ("detr-r101", 60_464_672), ("detr-r101-dc5", 60_464_672)],
)
def test_published_models_have_the_published_number_of_parameters(variant: str, parameters: int) -> None:
    with torch.device("meta"):
        model = build(variant)
    # The authors' count includes neither the statistics nor the scales of frozen norms.
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert parameters - trained == 222_400  # the stem's and the first stage's convolutions


def test_published_models_have_the_papers_settings() -> None:
    config = detr.VARIANTS["detr-r50"].config
    assert (config.class_count, config.queries, config.width, config.attention_heads, config.hidden) == (
        91,
        100,
        256,
        8,
        2048,
    )
    assert (config.encoder_layers, config.decoder_layers, config.dropout) == (6, 6, 0.1)
    assert (config.class_weight, config.l1_weight, config.giou_weight, config.no_object_weight) == (1.0, 5.0, 2.0, 0.1)
    with torch.device("meta"):
        model = build("detr-r50")
    assert model.heads.class_head.weight.shape == (92, 256)
    assert model.query_source.position.weight.shape == (100, 256)
    assert model.neck.projections[0].weight.shape == (256, 2048, 1, 1)


def test_every_matrix_of_the_transformer_begins_as_xavier_says() -> None:
    model = build("detr-compact", width=128, hidden=256, attention_heads=4, encoder_layers=2, decoder_layers=3)
    seen = 0
    for part in (model.encoder, model.decoder):
        for name, parameter in part.named_parameters():
            if parameter.dim() > 1:
                bound = math.sqrt(6 / sum(parameter.shape))
                assert 0.98 * bound < parameter.abs().max().item() <= bound, name
                assert parameter.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03), name
                seen += 1
            elif "norm" in name:
                assert (parameter == (1.0 if name.endswith("weight") else 0.0)).all(), name
            elif "projection" in name or "output" in name:
                assert not parameter.any(), name
    assert seen == 2 * 4 + 3 * 6
    queries = build("detr-compact", queries=400).query_source.position.weight
    assert queries.mean().item() == pytest.approx(0, abs=0.02)
    assert queries.std().item() == pytest.approx(1, abs=0.02)


def test_queries_are_the_same_for_every_image_and_begin_empty(model: Detector) -> None:
    queries = model.stages(batch()).queries
    assert not queries.content.any()
    for image in range(2):
        assert torch.equal(queries.position[image], model.query_source.position.weight)


def test_the_norm_is_for_the_heads_and_not_for_the_next_layer(model: Detector) -> None:
    torch.nn.init.normal_(model.decoder.norm.weight)  # otherwise norming a second time would change nothing
    torch.nn.init.normal_(model.decoder.norm.bias)
    stages = model.stages(batch())
    content, memory = stages.queries.content, stages.memory
    for layer, state in zip(model.decoder.layers, stages.decoded.states, strict=True):
        content = layer(content, stages.queries.position, memory)
        torch.testing.assert_close(state, model.decoder.norm(content))
    assert stages.decoded.base_logits is None


def test_layers_before_the_last_can_be_read_alone(model: Detector) -> None:
    stages = model.stages(batch())
    for state, layer in zip(stages.decoded.states, stages.output.layers, strict=True):
        torch.testing.assert_close(layer.logits, model.heads.class_head(state))
        torch.testing.assert_close(layer.boxes_cxcywh, model.heads.box_head(state).sigmoid())
    assert len(stages.output.layers) == 3


def test_permuting_the_queries_permutes_the_results(model: Detector) -> None:
    stages = model.stages(batch())
    order = torch.tensor([3, 0, 4, 1, 2])
    queries = Queries(stages.queries.content[:, order], stages.queries.position[:, order])
    output = model.heads(model.decoder(queries, stages.memory, model.heads))
    torch.testing.assert_close(output.logits, stages.output.logits[:, :, order])
    torch.testing.assert_close(output.boxes_cxcywh, stages.output.boxes_cxcywh[:, :, order])


def test_the_first_self_attention_sees_only_empty_values(model: Detector) -> None:
    # All values are the bias, so attention cannot depend on its weights: they have no gradient.
    model.heads.box_head(model.stages(batch()).decoded.states).square().sum().backward()
    gradient = model.decoder.layers[0].self_attention.projection_weight.grad
    assert gradient is not None
    assert gradient.abs().max() < 1e-12
    later = model.decoder.layers[1].self_attention.projection_weight.grad
    assert later is not None
    assert later.abs().max() > 1e-6


def test_criterion_and_selection_follow_the_configuration() -> None:
    config = detr.Config(class_count=3, decoder_layers=2, l1_weight=4.0, no_object_weight=0.2)
    criterion = detr.criterion(config)
    assert criterion.weights == {
        "layers.0.class": 1.0,
        "layers.0.l1": 4.0,
        "layers.0.giou": 2.0,
        "layers.1.class": 1.0,
        "layers.1.l1": 4.0,
        "layers.1.giou": 2.0,
    }
    assert {name: weight for name, (_, weight) in criterion.matcher.terms.items()} == {
        "class": 1.0,
        "l1": 4.0,
        "giou": 2.0,
    }
    assert criterion.no_object == 3


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(dtype: torch.dtype) -> None:
    model = build("detr-compact", classes=["a"], **SMALL).eval()
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        wanted = model(ImageBatch(pixels))
        found = model.to(dtype)(ImageBatch(pixels.to(dtype)))
    assert found.logits.dtype == dtype
    assert found.boxes_cxcywh.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    tolerance = 1e-4 if dtype == torch.float64 else 0.1
    torch.testing.assert_close(found.logits.float(), wanted.logits, rtol=0, atol=tolerance)
    torch.testing.assert_close(found.boxes_cxcywh.float(), wanted.boxes_cxcywh, rtol=0, atol=tolerance)
