from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import detrkit
from detrkit.explaining.attention import (
    CROSS,
    ENCODER,
    SELF,
    DenseLook,
    Look,
    SampledLook,
    layers_of,
    recorded_looks,
    recorded_results,
)
from detrkit.layers.attention import MultiHeadAttention, merge_heads, split_heads
from detrkit.models.catalog import CATALOG
from detrkit.models.detector import Detector
from detrkit.structures import ImageBatch, Memory

COMPACT = [name for name in CATALOG if "compact" in name and "panoptic" not in name]


# Attention that no compact variant has: Gaussians around salient points, one of several levels for each layer, plain attention in Anchor DETR.
SMALL: dict[str, Any] = {"width": 64, "hidden": 64, "decoder_layers": 3, "queries": 5}
FURTHER: list[tuple[str, dict[str, Any]]] = [
    ("sam-detr-compact", {"gaussian": True}),
    ("sam-detr-r50-multiscale-smca", SMALL),
    ("anchor-detr-compact", {"row_column": False}),
]


def small_model(variant: str, **settings: Any) -> Detector:
    torch.manual_seed(0)
    model = detrkit.build(variant, classes=["a", "b"], **{"encoder_layers": 1, **settings}).eval()
    for parameter in model.parameters():  # zeros at the start would hide mistakes
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return model


def padded_batch() -> ImageBatch:
    padding = torch.zeros(2, 96, 128, dtype=torch.bool)
    padding[1, 64:], padding[1, :, 96:] = True, True
    return ImageBatch(torch.randn(2, 3, 96, 128), padding)


def attended(module: nn.Module, arguments: tuple[Any, ...], look: Look) -> Tensor:
    """What an attention gives if it looks like this."""
    if isinstance(look, SampledLook):
        values = module.project(look.memory)
        return module.output(sampled_by_hand(values, look))
    memory = next((each for each in arguments if isinstance(each, Memory)), None)
    if isinstance(module, MultiHeadAttention):
        tokens = arguments[2] if memory is None else memory.tokens
        value = F.linear(
            tokens, module.projection_weight[2 * module.width :], module.projection_bias[2 * module.width :]
        )
    else:
        value = module.value(arguments[0] if memory is None else memory.tokens)
    return module.output(merge_heads(look.weights @ split_heads(value, module.attention_heads)))


def sampled_by_hand(values: Tensor, look: SampledLook) -> Tensor:
    """Bilinear samples of every level, weighed and added up: values (B, S, M, d) to (B, Q, M · d)."""
    total = 0
    sizes = look.memory.level_sizes
    for level, part in enumerate(values.split([h * w for h, w in sizes], dim=1)):
        maps = part.permute(0, 2, 3, 1).flatten(0, 1).unflatten(-1, sizes[level])  # (B · M, d, h, w)
        places = look.locations[:, :, :, level].transpose(1, 2).flatten(0, 1) * 2 - 1  # (B · M, Q, points, 2)
        found = F.grid_sample(maps, places, align_corners=False)  # (B · M, d, Q, points)
        share = look.weights[:, :, :, level].transpose(1, 2).flatten(0, 1)[:, None]
        total = total + (found * share).sum(-1)
    return total.unflatten(0, values.shape[::2][:2]).permute(0, 3, 1, 2).flatten(2)


@pytest.mark.parametrize(("variant", "settings"), [*((name, {}) for name in COMPACT), *FURTHER])
@torch.no_grad()
def test_the_looks_are_those_that_the_model_used(variant: str, settings: dict[str, Any]) -> None:
    model, batch = small_model(variant, **settings), padded_batch()
    plain = model(batch)
    for place in (CROSS, SELF, ENCODER):
        modules = layers_of(model, place)
        calls: list[list[Any]] = [[] for _ in modules]
        handles = [
            module.register_forward_hook(lambda _, given, result, own=own: own.append((given, result)))
            for module, own in zip(modules, calls, strict=True)
        ]
        with recorded_looks(model, place) as looks:
            output = model(batch)
        for handle in handles:
            handle.remove()
        assert torch.equal(output.logits, plain.logits)
        assert len(looks) == len(modules)
        for module, found, seen in zip(modules, looks, calls, strict=True):
            assert len(found) == len(seen) >= 1
            for look, (given, result) in zip(found, seen, strict=True):
                torch.testing.assert_close(attended(module, given, look), result, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_weights_of_every_head_sum_to_one_and_padding_has_none() -> None:
    for variant in ("detr-compact", "smca-detr-compact-multiscale", "anchor-detr-compact"):
        with recorded_looks(model := small_model(variant), CROSS) as looks:
            model(padded_batch())
        for (look,) in looks:
            assert isinstance(look, DenseLook)
            assert look.memory is not None
            assert look.weights.shape[-1] == look.memory.tokens.shape[1]
            torch.testing.assert_close(look.weights.sum(-1), torch.ones(look.weights.shape[:-1]))
            hidden = look.weights[1][..., look.memory.padding[1]]
            assert hidden.numel() > 0
            assert not hidden.any()


@torch.no_grad()
def test_sampled_points_are_fractions_of_the_image_without_its_padding() -> None:
    model = small_model("deformable-detr-compact")
    attention = layers_of(model, CROSS)[0]
    nn.init.zeros_(attention.offsets.weight)  # every point at its reference
    nn.init.zeros_(attention.offsets.bias)
    with recorded_looks(model, CROSS) as looks:
        decoded = model.stages(padded_batch()).decoded
    wanted = decoded.references[0][:, :, None, None, None, :2].expand_as(looks[0][0].points())
    torch.testing.assert_close(looks[0][0].points(), wanted)


@torch.no_grad()
def test_nothing_is_recorded_outside_of_the_context_or_of_its_thread() -> None:
    model = small_model("detr-compact")
    with recorded_looks(model, CROSS) as looks:
        other = threading.Thread(target=model, args=(padded_batch(),))
        other.start()
        other.join()
    assert looks == [[], [], []]
    model(padded_batch())
    assert looks == [[], [], []]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@torch.no_grad()
def test_what_is_kept_of_a_look_can_be_chosen() -> None:
    model = small_model("detr-compact")
    with recorded_looks(model, CROSS, keep=lambda look: float(look.weights.sum())) as kept:
        model(padded_batch())
    heads, queries = 8, model.card.config["queries"]
    assert [len(each) for each in kept] == [1, 1, 1]
    assert kept[0][0] == pytest.approx(2 * heads * queries, rel=1e-5)


def test_models_without_a_kind_of_attention_have_no_layers_of_it() -> None:
    assert layers_of(small_model("sam-detr-compact-without-cross-attention"), CROSS) == []
    assert layers_of(small_model("tsp-fcos-compact"), CROSS) == []
    assert len(layers_of(small_model("tsp-fcos-compact"), ENCODER)) >= 1


@torch.no_grad()
def test_gaussians_and_salient_points_are_results_of_layers() -> None:
    model = small_model("smca-detr-compact")
    with recorded_results(model, "decoder", "gaussian") as gaussians, recorded_looks(model, CROSS) as looks:
        model(padded_batch())
    assert len(gaussians) == len(looks)
    assert gaussians[0][0].shape == looks[0][0].weights.shape
    assert gaussians[0][0].max() <= 0
    model = small_model("sam-detr-compact")
    with recorded_results(model, "decoder", "aligner") as aligned:
        model(padded_batch())
    assert aligned[0][0].points.shape[-1] == 2
