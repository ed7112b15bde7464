"""Models of `transformers`, saved with `torch.save`: their tensors have the names of modules, which since release 5 differ from those in files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import detrkit
from detrkit.structures import ImageBatch

transformers = pytest.importorskip("transformers", reason="needs the dev extra: pip install detrkit[dev]")

LAYERS = {
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96,
    "encoder_attention_heads": 8,
    "decoder_attention_heads": 8,
    "num_queries": 7,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "detr-r18": ("Detr", {"d_model": 64}),
    "conditional-detr-r50": ("ConditionalDetr", {"d_model": 64}),
    "deformable-detr-r18": ("DeformableDetr", {"d_model": 64}),
    "deformable-detr-r18 with refinement": ("DeformableDetr", {"d_model": 64, "with_box_refine": True}),
    "deformable-detr-r18-two-stage": (
        "DeformableDetr",
        {"d_model": 64, "with_box_refine": True, "two_stage": True, "two_stage_num_proposals": 300},
    ),
    "dab-detr-r50": ("DabDetr", {"hidden_size": 64}),
}


def their_model(name: str, kind: str = "ForObjectDetection") -> Any:
    """A small model of theirs, whose norms have statistics that matter."""
    variant, (family, settings) = name.split()[0], MODELS[name]
    stages = ["stage2", "stage3", "stage4"] if family == "DeformableDetr" else ["stage4"]
    if kind == "ForSegmentation":
        stages = ["stage1", "stage2", "stage3", "stage4"]
    backbone = transformers.ResNetConfig(out_features=stages)
    if "r18" in variant and kind == "ForObjectDetection":
        backbone = transformers.ResNetConfig(
            hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic", out_features=stages
        )
    settings = {**LAYERS, **settings, "backbone_config": backbone, "use_timm_backbone": False}
    config = getattr(transformers, f"{family}Config")(**settings, id2label={0: "cat", 1: "dog"})
    model = getattr(transformers, family + kind)(config).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "backbone" not in parameter_name:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    for module in model.modules():
        if hasattr(module, "running_var"):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    return model


@pytest.mark.parametrize("prefix", ["", "model.", "module._orig_mod."], ids=["plain", "in Lightning", "wrapped"])
@pytest.mark.parametrize("name", MODELS)
def test_the_state_dict_gives_what_their_file_gives(name: str, prefix: str, tmp_path: Path) -> None:
    theirs, variant = their_model(name), name.split()[0]
    weights = {prefix + key: tensor for key, tensor in theirs.state_dict().items()}
    torch.save(weights, tmp_path / "weights.pth")
    variant = "conditional-detr-r50" if variant.startswith("conditional") else variant
    found = detrkit.load(tmp_path / "weights.pth", variant=variant, classes=["cat", "dog"])
    pixels = torch.randn(1, 3, 192, 256)
    with torch.no_grad():
        output, expected = found(ImageBatch(pixels)), theirs(pixel_values=pixels)
    if not theirs.config.to_dict().get("two_stage"):  # equal up to the order of proposals
        torch.testing.assert_close(output.logits[-1], expected.logits, atol=2e-4, rtol=0)
        torch.testing.assert_close(output.boxes_cxcywh[-1], expected.pred_boxes, atol=1e-4, rtol=0)
    theirs.save_pretrained(tmp_path / "folder")
    in_file = detrkit.load(tmp_path / "folder" / "model.safetensors", variant=variant)
    state = found.state_dict()
    for key, tensor in in_file.state_dict().items():
        assert torch.equal(state[key], tensor), key


@pytest.mark.parametrize("name", ["detr-r18", "conditional-detr-r50"])
@pytest.mark.parametrize("place", ["memory", "file"])
def test_models_with_masks(name: str, place: str, tmp_path: Path) -> None:
    theirs, variant = their_model(name, "ForSegmentation"), name.replace("r18", "r50") + "-panoptic"
    path = tmp_path / "model.safetensors"
    if place == "memory":
        path = tmp_path / "weights.pth"
        torch.save(theirs.state_dict(), path)
    else:
        theirs.save_pretrained(tmp_path)
    found = detrkit.load(path, variant=variant, classes=["cat", "dog"] if place == "memory" else None)
    pixels, padding = torch.randn(2, 3, 192, 256), torch.zeros(2, 192, 256, dtype=torch.bool)
    padding[1, :, 160:] = padding[1, 128:] = True
    pixels = pixels.masked_fill(padding[:, None], 0.0)
    with torch.no_grad():
        output, expected = found(ImageBatch(pixels, padding)), theirs(pixel_values=pixels, pixel_mask=(~padding).long())
        queries = output.logits.shape[2]
        images, numbers = torch.arange(2).repeat_interleave(queries), torch.arange(queries).repeat(2)
        masks = found.mask_logits(output.mask_inputs, images, numbers).unflatten(0, (2, queries))
    torch.testing.assert_close(output.logits[-1], expected.logits, atol=2e-4, rtol=0)
    # Theirs adds no reference points to the centres where the model has masks.
    same = slice(2, 4) if name.startswith("conditional") else slice(0, 4)
    boxes, expected_boxes = output.boxes_cxcywh[-1][..., same], expected.pred_boxes[..., same]
    torch.testing.assert_close(boxes, expected_boxes, atol=1e-4, rtol=0)
    torch.testing.assert_close(masks, expected.pred_masks, atol=5e-4, rtol=0)
    assert expected.pred_masks.std() > 0.1
