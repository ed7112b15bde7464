"""Conditional DETR's files: every name in the authors' and Hugging Face's files has its place, and shapes determine the settings."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints.authors_files import assert_equal, complaint, write
from parity import recipe
from safetensors.torch import load_file
from torch import Tensor

from detrkit.checkpoints import from_official, load, save, to_official
from detrkit.checkpoints.conditional_detr import HUGGING_FACE, HUGGING_FACE_TIMM, OFFICIAL, TABLE
from detrkit.checkpoints.key_mapping import KeyMapping
from detrkit.checkpoints.recognition import recognise
from detrkit.errors import CheckpointError
from detrkit.models.catalog import build

LAYER = {
    "self_attention": ["content_query", "position_query", "content_key", "position_key", "value", "output"],
    "cross_attention": ["content_query", "spatial_query", "content_key", "spatial_key", "value", "output"],
}
SIZES = {"queries": 5, "width": 32, "hidden": 48, "attention_heads": 4}


@dataclasses.dataclass(frozen=True)
class Config:
    """The settings that weights and arguments determine, and two that they do not."""

    class_count: int = 91
    backbone: str = "resnet50-dc5"
    queries: int = 300
    width: int = 256
    attention_heads: int = 8
    hidden: int = 2048
    encoder_layers: int = 6
    decoder_layers: int = 6
    dropout: float = 0.25


def official(shared: Path, case: str = "conditional_detr_r50") -> dict[str, Tensor]:
    """The authors' names and shapes, each tensor full of a number of its own that is stored once."""
    manifest = json.loads((shared / "golden" / case / "manifest.json").read_text())
    return {
        name: torch.full((1,) * len(shape), float(index)).expand(shape)
        for index, (name, shape) in enumerate(manifest["tensors"].items())
    }


def transformer_names(encoder_layers: int, decoder_layers: int) -> set[str]:
    """Our names of everything except the backbone."""
    modules = {"neck.projections.0", "decoder.norm", "heads.class_head"}
    modules |= {f"heads.box_head.layers.{index}" for index in range(3)}
    modules |= {
        f"{part}.layers.{index}"
        for part in ("query_source.reference_head", "decoder.position_scale")
        for index in range(2)
    }
    names = {"query_source.position.weight"}
    for index in range(encoder_layers):
        layer = f"encoder.layers.{index}"
        modules |= {f"{layer}.{name}" for name in ("norm", "attention.output")}
        names |= {f"{layer}.attention.projection_{leaf}" for leaf in ("weight", "bias")}
    for index in range(decoder_layers):
        layer = f"decoder.layers.{index}"
        modules |= {f"{layer}.{name}" for name in ("self_norm", "cross_norm")}
        modules |= {f"{layer}.{attention}.{part}" for attention, parts in LAYER.items() for part in parts}
    modules.add("decoder.layers.0.cross_attention.position_query")
    for part, count in (("encoder", encoder_layers), ("decoder", decoder_layers)):
        feed_forward = [f"{part}.layers.{index}.feed_forward" for index in range(count)]
        modules |= {f"{module}.{name}" for module in feed_forward for name in ("expand", "contract", "norm")}
    return names | {f"{module}.{leaf}" for module in modules for leaf in ("weight", "bias")}


class TestTheAuthorsNames:
    def test_have_a_place_each_and_lead_back(self, shared: Path) -> None:
        theirs = official(shared)
        own = OFFICIAL.from_foreign(theirs)
        assert len(own) == len(theirs) == 564
        assert {name for name in own if not name.startswith("backbone.")} == transformer_names(6, 6)
        assert_equal(OFFICIAL.to_foreign(own), theirs)

    @pytest.mark.parametrize(
        ("ours", "theirs"),
        [
            ("query_source.position.weight", "query_embed.weight"),
            ("query_source.reference_head.layers.1.bias", "transformer.decoder.ref_point_head.layers.1.bias"),
            ("decoder.position_scale.layers.0.weight", "transformer.decoder.query_scale.layers.0.weight"),
            ("decoder.layers.1.self_attention.content_query.weight", "transformer.decoder.layers.1.sa_qcontent_proj.weight"),
            ("decoder.layers.1.self_attention.position_query.weight", "transformer.decoder.layers.1.sa_qpos_proj.weight"),
            ("decoder.layers.1.self_attention.content_key.weight", "transformer.decoder.layers.1.sa_kcontent_proj.weight"),
            ("decoder.layers.1.self_attention.position_key.weight", "transformer.decoder.layers.1.sa_kpos_proj.weight"),
            ("decoder.layers.1.self_attention.value.bias", "transformer.decoder.layers.1.sa_v_proj.bias"),
            ("decoder.layers.1.self_attention.output.bias", "transformer.decoder.layers.1.self_attn.out_proj.bias"),
            ("decoder.layers.1.cross_attention.content_query.weight", "transformer.decoder.layers.1.ca_qcontent_proj.weight"),
            ("decoder.layers.1.cross_attention.spatial_query.weight", "transformer.decoder.layers.1.ca_qpos_sine_proj.weight"),
            ("decoder.layers.1.cross_attention.content_key.weight", "transformer.decoder.layers.1.ca_kcontent_proj.weight"),
            ("decoder.layers.1.cross_attention.spatial_key.weight", "transformer.decoder.layers.1.ca_kpos_proj.weight"),
            ("decoder.layers.1.cross_attention.value.bias", "transformer.decoder.layers.1.ca_v_proj.bias"),
            ("decoder.layers.1.cross_attention.output.bias", "transformer.decoder.layers.1.cross_attn.out_proj.bias"),
            ("decoder.layers.0.cross_attention.position_query.bias", "transformer.decoder.layers.0.ca_qpos_proj.bias"),
            ("decoder.layers.2.self_norm.weight", "transformer.decoder.layers.2.norm1.weight"),
            ("decoder.layers.2.cross_norm.weight", "transformer.decoder.layers.2.norm2.weight"),
            ("decoder.layers.2.feed_forward.norm.weight", "transformer.decoder.layers.2.norm3.weight"),
            ("decoder.layers.2.feed_forward.expand.weight", "transformer.decoder.layers.2.linear1.weight"),
            ("heads.class_head.bias", "class_embed.bias"),
            ("heads.box_head.layers.2.weight", "bbox_embed.layers.2.weight"),
        ],
    )  # fmt: skip
    def test_are_those_of_the_same_part(self, ours: str, theirs: str) -> None:
        tensor = torch.randn(3)
        assert list(OFFICIAL.to_foreign({ours: tensor})) == [theirs]
        assert list(OFFICIAL.from_foreign({theirs: tensor})) == [ours]

    def test_belong_to_one_rule_each(self, shared: Path) -> None:
        tables = [KeyMapping([rule]) for rule in OFFICIAL.rules]
        for name in official(shared):
            knowing = 0
            for table in tables:
                with contextlib.suppress(CheckpointError):
                    table.from_foreign({name: torch.zeros(1)})
                    knowing += 1
            assert knowing == 1, name

    def test_only_the_first_layer_projects_positions_of_queries(self) -> None:
        with pytest.raises(CheckpointError, match="1 tensors have no place in this model"):
            OFFICIAL.from_foreign({"transformer.decoder.layers.1.ca_qpos_proj.weight": torch.zeros(1)})

    def test_counters_of_batch_norm_are_dropped(self) -> None:
        assert OFFICIAL.from_foreign({"backbone.0.body.bn1.num_batches_tracked": torch.tensor(5)}) == {}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """What `transformers` saves of a small model."""
    transformers = pytest.importorskip("transformers", reason="needs the dev extra: pip install detrkit[dev]")
    sizes = {"embedding_size": 64, "hidden_sizes": [256, 512, 1024, 2048], "depths": [1, 1, 1, 1]}
    config = transformers.ConditionalDetrConfig(
        backbone_config=transformers.ResNetConfig(out_features=["stage4"], **sizes),
        use_timm_backbone=False,
        d_model=32,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        encoder_layers=2,
        decoder_layers=3,
        num_queries=5,
        num_labels=7,
    )
    folder = tmp_path_factory.mktemp("theirs")
    transformers.ConditionalDetrForObjectDetection(config).save_pretrained(folder)
    return load_file(folder / "model.safetensors")


class TestHuggingFacesNames:
    def test_have_a_place_each_and_lead_back(self, saved: dict[str, Tensor]) -> None:
        assert TABLE.layout(saved) is HUGGING_FACE
        own = HUGGING_FACE.from_foreign(saved)
        assert {name for name in own if not name.startswith("backbone.")} == transformer_names(2, 3)
        assert "backbone.layer4.0.downsample.1.running_var" in own
        assert_equal(HUGGING_FACE.to_foreign(own), saved)

    def test_tell_the_settings(self, saved: dict[str, Tensor]) -> None:
        arguments = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
        config = TABLE.fit_config(Config(), HUGGING_FACE.from_foreign(saved), arguments)
        assert config == Config(class_count=7, encoder_layers=2, decoder_layers=3, **SIZES)

    def test_are_recognised(self, saved: dict[str, Tensor]) -> None:
        recognised = recognise(saved)
        assert recognised is not None
        assert recognised.family == "conditional_detr"

    @pytest.mark.parametrize("mapping", [HUGGING_FACE, HUGGING_FACE_TIMM], ids=["own ResNet", "timm"])
    def test_distinguish_both_backbones(self, shared: Path, mapping: KeyMapping) -> None:
        own = OFFICIAL.from_foreign(official(shared))
        theirs = mapping.to_foreign(own)
        assert TABLE.layout(theirs) is mapping
        assert_equal(mapping.from_foreign(theirs), own)


class TestSettings:
    def test_are_the_golden_models(self, shared: Path) -> None:
        """Dilation, dropout and, without arguments, the number of heads stay as in the variant."""
        own = OFFICIAL.from_foreign(official(shared))
        assert TABLE.fit_config(Config(class_count=3, hidden=1, attention_heads=16), own, {}) == Config(
            queries=40, attention_heads=16
        )
        assert TABLE.fit_config(Config(), own, {"nheads": 4}).attention_heads == 4
        assert TABLE.official(Config()) is OFFICIAL

    def test_of_a_part_of_a_model(self, shared: Path) -> None:
        own = OFFICIAL.from_foreign(official(shared))
        del own["heads.class_head.weight"]
        with pytest.raises(CheckpointError) as caught:
            TABLE.fit_config(Config(), own, {})
        assert str(caught.value) == (
            "the weights lack 'heads.class_head.weight': this is only a part of a Conditional DETR"
        )

    def test_all_variants_have_the_same_names(self, shared: Path) -> None:
        own = OFFICIAL.from_foreign(official(shared))
        variants = {"plain": Config(backbone="resnet50"), "dilated": Config()}
        assert TABLE.candidates(own, variants) == ["plain", "dilated"]


@pytest.fixture
def trained(shared: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and stored options of the authors' dilated model."""
    manifest = json.loads((shared / "golden" / "conditional_detr_r50_dc5" / "manifest.json").read_text())
    weights = recipe.weights(manifest["tensors"], manifest["scale"], {})
    return {name: tensor.float() for name, tensor in weights.items()}, manifest["arguments"]


class TestTheAuthorsFiles:
    """What the authors' training code writes, with the weights behind the reference values."""

    def test_say_their_variant_and_come_back_bit_for_bit(self, trained: Any, tmp_path: Path) -> None:
        weights, arguments = trained
        model = load(write(tmp_path / "checkpoint.pth", weights, **arguments))
        assert model.card.variant == "conditional-detr-r50-dc5"
        assert (model.card.config["queries"], model.backbone.strides) == (40, (16,))
        assert (model.card.categories[0].name, model.card.categories[0].index) == ("person", 1)
        assert_equal(to_official(model.state_dict(), model), weights)
        assert_equal(from_official(weights, model), dict(model.state_dict()))
        again = load(save(model, tmp_path / "model.safetensors"))
        assert again.card == model.card
        assert_equal(dict(again.state_dict()), dict(model.state_dict()))

    def test_ask_for_the_variant_where_nothing_tells_dilation(self, shared: Path, tmp_path: Path) -> None:
        path = write(tmp_path / "checkpoint.pth", official(shared))
        assert complaint(path) == (
            f"{path} could be any of conditional-detr-r50, conditional-detr-r50-dc5, between which its contents do not decide: "
            "say which one with `variant`"
        )
        for variant, stride in (("conditional-detr-r50", 32), ("conditional-detr-r50-dc5", 16)):
            model = load(path, variant=variant)
            assert (model.card.variant, model.backbone.strides) == (variant, (stride,))
        assert complaint(path, variant="conditional-detr-r101") == (
            f"{path} is not a conditional-detr-r101: its weights fit conditional-detr-r50 or conditional-detr-r50-dc5"
        )

    def test_contradict_a_wrong_variant(self, shared: Path, tmp_path: Path) -> None:
        path = write(tmp_path / "checkpoint.pth", official(shared), dilation=False, nheads=8)
        assert load(path).card.variant == "conditional-detr-r50"
        assert complaint(path, variant="conditional-detr-r50-dc5") == (
            f"{path} is a conditional-detr-r50, as its contents say, not a conditional-detr-r50-dc5: leave `variant` out"
        )

    def test_of_the_deeper_backbone(self, tmp_path: Path) -> None:
        with torch.device("meta"):
            model = build("conditional-detr-r101", **SIZES, encoder_layers=1, decoder_layers=2)
        weights = {
            name: torch.zeros(()).expand(tensor.shape)
            for name, tensor in to_official(model.state_dict(), model).items()
        }
        for dilation, variant in ((False, "conditional-detr-r101"), (True, "conditional-detr-r101-dc5")):
            loaded = load(write(tmp_path / "checkpoint.pth", weights, dilation=dilation, nheads=4))
            assert loaded.card.variant == variant
            assert {name: loaded.card.config[name] for name in SIZES} == SIZES

    def test_of_the_compact_model(self, tmp_path: Path) -> None:
        """Its backbone ends a stage earlier than that of other compact models, which names alone tell."""
        model = build("conditional-detr-compact", classes=["a", "b"], attention_heads=8)
        loaded = load(write(tmp_path / "checkpoint.pth", to_official(model.state_dict(), model), nheads=8))
        assert loaded.card.config == model.card.config
        assert_equal(dict(loaded.state_dict()), dict(model.state_dict()))


@pytest.mark.parametrize(
    ("case", "problem"),
    [
        ("dab_detr_r50", "a DAB-DETR"),
        ("dn_dab_detr_r50", "a DN-DETR"),
        ("dino_r50_4scale", "a DINO"),
        ("sam_detr_r50", "a SAM-DETR"),
        ("smca_detr_r50", "an SMCA-DETR"),
        ("anchor_detr_r50_c5", "an Anchor DETR"),
        ("detr_r50", "a DETR"),
        ("deformable_detr_r50", "a Deformable DETR"),
    ],
)
def test_relatives_are_refused_by_name(shared: Path, tmp_path: Path, case: str, problem: str) -> None:
    """In one sentence that ends in what to do, which depends on what detrkit builds."""
    path = write(tmp_path / "checkpoint.pth", official(shared, case))
    message = complaint(path, variant="conditional-detr-r50")
    assert message.startswith(f"{path} holds {problem}, not a conditional-detr-r50: ")
    remedies = ("leave `variant` out", f"detrkit does not build {problem.partition(' ')[2]} yet")
    assert message.endswith(remedies)


def test_others_variants_refuse_it(shared: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "checkpoint.pth", official(shared))
    for variant in ("detr-r50", "deformable-detr-r50"):
        assert complaint(path, variant=variant) == (
            f"{path} holds a Conditional DETR, not a {variant}: leave `variant` out"
        )
