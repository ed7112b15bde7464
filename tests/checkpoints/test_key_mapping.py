"""Tables of names: complete in both directions, for weights, gradients and parts of a model."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from detrkit.checkpoints.detr import HUGGING_FACE, HUGGING_FACE_TIMM, OFFICIAL, layout
from detrkit.checkpoints.key_mapping import Dropped, KeyMapping, Rule
from detrkit.errors import CheckpointError
from detrkit.models.catalog import CATALOG, build
from detrkit.models.detector import Detector

TABLES = {"official": OFFICIAL, "Hugging Face": HUGGING_FACE, "Hugging Face, timm": HUGGING_FACE_TIMM}
RESNETS = ["detr-r50", "detr-r50-dc5", "detr-r101", "detr-r34", "detr-r18", "detr-r18-c4"]


def skeleton(variant: str) -> Detector:
    """A model without memory for its weights: names and shapes only."""
    with torch.device("meta"):
        return build(variant)


def small(variant: str) -> Detector:
    return build(
        variant,
        classes=["a", "b"],
        width=64,
        hidden=64,
        attention_heads=4,
        encoder_layers=1,
        decoder_layers=2,
        queries=5,
    )


def numbered(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Small tensors that all differ, so that no two can be confused."""
    return {name: torch.arange(12.0).reshape(12, 1) + 100 * index for index, name in enumerate(tensors)}


CASES = [("official", variant) for variant, line in CATALOG.items() if line.family == "detr"]
CASES += [(table, variant) for table in ("Hugging Face", "Hugging Face, timm") for variant in RESNETS]


@pytest.mark.parametrize(("table", "variant"), CASES)
def test_every_name_has_exactly_one_rule_in_both_directions(table: str, variant: str) -> None:
    mapping = TABLES[table]
    tables = [KeyMapping([rule]) for rule in mapping.rules]
    names = skeleton(variant).state_dict()

    def knows(translate: Callable[[dict[str, Tensor]], object]) -> bool:
        try:
            translate({name: torch.zeros(3)})
        except CheckpointError as problem:
            return "is made of" in str(problem)  # a part of a concatenation is known, though not enough
        return True

    foreign = set()
    for name in names:
        assert sum(knows(alone.to_foreign) for alone in tables) == 1, name
        found = mapping.to_foreign({name: torch.zeros(3)})
        assert not foreign & set(found), name  # no two of our names become the same foreign one
        foreign |= set(found)
    for name in foreign:
        assert sum(knows(alone.from_foreign) for alone in tables) == 1, name


@pytest.mark.parametrize(("table", "variant"), CASES)
def test_there_and_back(table: str, variant: str) -> None:
    mapping, own = TABLES[table], numbered(skeleton(variant).state_dict())
    again = mapping.from_foreign(mapping.to_foreign(own), set(own))
    assert set(again) == set(own)
    for name, tensor in own.items():
        assert torch.equal(again[name], tensor), name


@pytest.mark.parametrize(("variant", "count"), [("detr-r50", 458), ("detr-r101", 713)])
def test_the_authors_files_have_as_many_tensors(variant: str, count: int) -> None:
    assert len(OFFICIAL.to_foreign(skeleton(variant).state_dict())) == count


def test_the_authors_names_and_shapes() -> None:
    found = OFFICIAL.to_foreign(skeleton("detr-r50").state_dict())
    for name, shape in {
        "query_embed.weight": (100, 256),
        "input_proj.weight": (256, 2048, 1, 1),
        "class_embed.weight": (92, 256),
        "bbox_embed.layers.2.weight": (4, 256),
        "transformer.encoder.layers.5.self_attn.in_proj_weight": (768, 256),
        "transformer.encoder.layers.0.self_attn.out_proj.bias": (256,),
        "transformer.encoder.layers.3.linear1.weight": (2048, 256),
        "transformer.encoder.layers.3.norm2.weight": (256,),
        "transformer.decoder.layers.5.multihead_attn.in_proj_bias": (768,),
        "transformer.decoder.layers.0.linear2.weight": (256, 2048),
        "transformer.decoder.layers.0.norm3.bias": (256,),
        "transformer.decoder.norm.weight": (256,),
        "backbone.0.body.conv1.weight": (64, 3, 7, 7),
        "backbone.0.body.layer4.0.downsample.1.running_var": (2048,),
        "backbone.0.body.layer3.5.bn3.weight": (1024,),
    }.items():
        assert found[name].shape == shape, name
    assert not any("transformer.encoder.norm" in name for name in found)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("encoder.layers.0.norm.weight", "transformer.encoder.layers.0.norm1.weight"),
        ("encoder.layers.0.feed_forward.norm.weight", "transformer.encoder.layers.0.norm2.weight"),
        ("decoder.layers.1.self_norm.weight", "transformer.decoder.layers.1.norm1.weight"),
        ("decoder.layers.1.cross_norm.weight", "transformer.decoder.layers.1.norm2.weight"),
        ("decoder.layers.1.feed_forward.norm.bias", "transformer.decoder.layers.1.norm3.bias"),
        ("decoder.layers.1.cross_attention.output.bias", "transformer.decoder.layers.1.multihead_attn.out_proj.bias"),
        ("encoder.layers.0.feed_forward.expand.bias", "transformer.encoder.layers.0.linear1.bias"),
    ],
)
def test_names_that_could_be_mistaken_for_each_other(ours: str, theirs: str) -> None:
    tensor = torch.randn(3)
    assert list(OFFICIAL.to_foreign({ours: tensor})) == [theirs]
    assert list(OFFICIAL.from_foreign({theirs: tensor})) == [ours]


def test_hugging_faces_names() -> None:
    own = skeleton("detr-r50").state_dict()
    found, with_timm = HUGGING_FACE.to_foreign(own), HUGGING_FACE_TIMM.to_foreign(own)
    common = {
        "model.query_position_embeddings.weight",
        "model.input_projection.weight",
        "model.encoder.layers.0.self_attn.k_proj.weight",
        "model.encoder.layers.0.self_attn_layer_norm.weight",
        "model.encoder.layers.0.final_layer_norm.bias",
        "model.decoder.layers.5.encoder_attn.out_proj.bias",
        "model.decoder.layers.5.encoder_attn_layer_norm.weight",
        "model.decoder.layers.5.self_attn_layer_norm.weight",
        "model.decoder.layers.2.fc1.weight",
        "model.decoder.layernorm.weight",
        "class_labels_classifier.weight",
        "bbox_predictor.layers.1.bias",
    }
    backbone = "model.backbone.conv_encoder.model."
    theirs = {
        "embedder.embedder.convolution.weight",
        "embedder.embedder.normalization.running_mean",
        "encoder.stages.0.layers.0.shortcut.convolution.weight",
        "encoder.stages.3.layers.2.layer.2.normalization.weight",
    }
    torchvisions = {"conv1.weight", "bn1.running_mean", "layer1.0.downsample.0.weight", "layer4.2.bn3.weight"}
    assert common | {backbone + name for name in theirs} <= set(found)
    assert common | {backbone + name for name in torchvisions} <= set(with_timm)
    # Both write query, key and value separately: 6 + 2 · 6 attentions, each with two more weights and two more biases.
    assert len(found) == len(with_timm) == len(own) + 18 * 4


def test_rows_of_a_projection_are_query_key_and_value() -> None:
    own = torch.arange(18.0).reshape(9, 2)
    found = HUGGING_FACE.to_foreign({"decoder.layers.0.cross_attention.projection_weight": own})
    prefix = "model.decoder.layers.0.encoder_attn."
    for letter, rows in zip("qkv", (own[:3], own[3:6], own[6:]), strict=True):
        assert torch.equal(found[f"{prefix}{letter}_proj.weight"], rows)
    shuffled = dict(reversed(found.items()))
    (again,) = HUGGING_FACE.from_foreign(shuffled).values()
    assert torch.equal(again, own)


def test_a_concatenation_needs_all_its_parts() -> None:
    prefix = "model.encoder.layers.3.self_attn."
    parts = {f"{prefix}{letter}_proj.bias": torch.zeros(4) for letter in "qv"}
    with pytest.raises(CheckpointError) as caught:
        HUGGING_FACE.from_foreign(parts)
    assert str(caught.value) == (
        "'encoder.layers.3.attention.projection_bias' is made of 3 tensors but only 2 were given: give all of them"
    )


@pytest.mark.parametrize("table", list(TABLES))
def test_gradients_go_the_same_way_as_weights(table: str) -> None:
    model, mapping = small("detr-r18-c4"), TABLES[table]
    gradients = {
        name: torch.randn_like(parameter) for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    foreign = mapping.to_foreign(gradients)
    assert not any("running" in name for name in foreign)
    again = mapping.from_foreign(foreign, set(model.state_dict()))
    assert set(again) == set(gradients)
    for name, gradient in gradients.items():
        assert torch.equal(again[name], gradient), name


def test_unknown_names() -> None:
    with pytest.raises(CheckpointError, match=r"^'encoder\.layer\.0\.weight' is not the name of a parameter"):
        OFFICIAL.to_foreign({"encoder.layer.0.weight": torch.zeros(1)})
    strange = {f"mask_head.lay{index}.weight": torch.zeros(1) for index in range(5)}
    with pytest.raises(CheckpointError) as caught:
        OFFICIAL.from_foreign({**strange, "query_embed.weight": torch.zeros(1)})
    assert str(caught.value) == (
        "5 tensors have no place in this model (mask_head.lay0.weight, mask_head.lay1.weight, mask_head.lay2.weight, ...): "
        "the weights are of another model"
    )


def test_a_name_of_the_table_may_still_have_no_place_in_the_model() -> None:
    name = "transformer.encoder.layers.6.norm1.weight"
    assert list(OFFICIAL.from_foreign({name: torch.zeros(1)})) == ["encoder.layers.6.norm.weight"]
    with pytest.raises(CheckpointError, match="1 tensors have no place in this model"):
        OFFICIAL.from_foreign({name: torch.zeros(1)}, set(skeleton("detr-r50").state_dict()))


def test_counters_of_batch_norm_are_dropped_where_norms_are_frozen() -> None:
    counter = "backbone.0.body.layer1.0.bn1.num_batches_tracked"
    assert OFFICIAL.from_foreign({counter: torch.tensor(5)}) == {}
    assert OFFICIAL.from_foreign({counter: torch.tensor(5)}, set(skeleton("detr-r18").state_dict())) == {}
    own = "backbone.stem.0.1.num_batches_tracked"
    names = set(skeleton("detr-compact").state_dict())
    assert own in names
    kept = OFFICIAL.from_foreign(OFFICIAL.to_foreign({own: torch.tensor(5)}), names)
    assert kept[own].item() == 5


@pytest.mark.parametrize("table", list(TABLES))
def test_every_table_knows_its_own_files(table: str) -> None:
    names = TABLES[table].to_foreign(skeleton("detr-r50").state_dict())
    assert layout(names) is TABLES[table]


def test_fields_match_whole_names_only() -> None:
    mapping = KeyMapping(
        [Rule("a.{n}.{leaf}", ("x{n}.{leaf}",)), Rule("b.{leaf}", ("first.{leaf}", "second.{leaf}"))],
        [Dropped("old.{rest}", "it has no use here")],
    )
    assert mapping.to_foreign({"a.12.weight": torch.zeros(1)}).keys() == {"x12.weight"}
    for name in ("a.1.2.weight", "a.b.weight", "za.1.weight", "a.1.weight.more"):
        with pytest.raises(CheckpointError):
            mapping.to_foreign({name: torch.zeros(1)})
    parts = {"second.w": torch.tensor([3.0, 4.0]), "old.x.y": torch.zeros(1), "first.w": torch.tensor([1.0, 2.0])}
    found = mapping.from_foreign(parts)
    assert {name: tensor.tolist() for name, tensor in found.items()} == {"b.w": [1.0, 2.0, 3.0, 4.0]}


class TestFields:
    """What the fields of a pattern stand for."""

    def test_one_that_occurs_twice_stands_for_the_same_text(self) -> None:
        mapping = KeyMapping([Rule("a.{n}.{leaf}", ("x{n}.block{n}.{leaf}",))])
        assert list(mapping.to_foreign({"a.12.weight": torch.zeros(1)})) == ["x12.block12.weight"]
        assert list(mapping.from_foreign({"x3.block3.bias": torch.zeros(1)})) == ["a.3.bias"]
        with pytest.raises(CheckpointError, match=r"no place in this model \(x3\.block4\.bias\)"):
            mapping.from_foreign({"x3.block4.bias": torch.zeros(1)})

    @pytest.mark.parametrize(("first", "second"), [("n", "m"), ("n1", "n2"), ("n", "n2")])
    def test_two_numbers_are_two_fields(self, first: str, second: str) -> None:
        rule = Rule(f"stage.{{{first}}}.{{{second}}}", (f"part{{{second}}}.of.{{{first}}}",))
        mapping = KeyMapping([rule])
        assert list(mapping.to_foreign({"stage.1.20": torch.zeros(1)})) == ["part20.of.1"]
        assert list(mapping.from_foreign({"part20.of.1": torch.zeros(1)})) == ["stage.1.20"]

    def test_both_sides_have_the_same(self) -> None:
        with pytest.raises(ValueError, match=r"'a\.\{n\}' and 'b\.\{m\}' must have the same fields"):
            Rule("a.{n}", ("b.{m}",))

    def test_an_unknown_one(self) -> None:
        with pytest.raises(ValueError, match="has an unknown field 'layer'"):
            KeyMapping([Rule("a.{layer}", ("b.{layer}",))])


class TestPackedTensors:
    """Several of our tensors in one foreign tensor, the reverse of a concatenation."""

    mapping = KeyMapping(
        [
            Rule(("l.{n}.query.{leaf}", "l.{n}.key.{leaf}", "l.{n}.value.{leaf}"), ("l{n}.in_proj_{leaf}",)),
            Rule("l.{n}.out.{leaf}", ("l{n}.out.{leaf}",)),
        ],
    )

    def test_are_split_and_joined_again(self) -> None:
        packed = torch.arange(12.0).reshape(6, 2)
        own = self.mapping.from_foreign({"l7.in_proj_weight": packed, "l7.out.weight": packed[:2]})
        assert list(own) == ["l.7.query.weight", "l.7.key.weight", "l.7.value.weight", "l.7.out.weight"]
        for name, rows in zip(own, (packed[:2], packed[2:4], packed[4:], packed[:2]), strict=True):
            assert torch.equal(own[name], rows), name
        again = self.mapping.to_foreign(dict(reversed(own.items())))
        assert set(again) == {"l7.in_proj_weight", "l7.out.weight"}
        assert torch.equal(again["l7.in_proj_weight"], packed)

    def test_carry_gradients(self) -> None:
        own = {f"l.0.{name}.bias": torch.randn(2, requires_grad=True) for name in ("query", "key", "value")}
        weights = torch.arange(6.0)
        (self.mapping.to_foreign(own)["l0.in_proj_bias"] * weights).sum().backward()
        gradients = {name: tensor.grad for name, tensor in own.items() if tensor.grad is not None}
        assert torch.equal(self.mapping.to_foreign(gradients)["l0.in_proj_bias"], weights)

    def test_need_all_their_parts(self) -> None:
        with pytest.raises(CheckpointError) as caught:
            self.mapping.to_foreign({"l.0.query.bias": torch.zeros(2), "l.0.value.bias": torch.zeros(2)})
        assert str(caught.value) == "'l0.in_proj_bias' is made of 3 tensors but only 2 were given: give all of them"

    @pytest.mark.parametrize("shape", [(4,), ()])
    def test_must_divide(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(CheckpointError) as caught:
            self.mapping.from_foreign({"l0.in_proj_bias": torch.zeros(shape)})
        assert str(caught.value) == (
            f"'l0.in_proj_bias' of shape {list(shape)} does not split into 3 equal parts: the weights are of another model"
        )

    def test_a_model_without_them(self) -> None:
        with pytest.raises(CheckpointError, match=r"no place in this model \(l0\.in_proj_bias\)"):
            self.mapping.from_foreign({"l0.in_proj_bias": torch.zeros(6)}, {"l.0.out.bias"})

    def test_several_names_on_both_sides_are_no_rule(self) -> None:
        with pytest.raises(ValueError, match="several names on both sides"):
            Rule(("a", "b"), ("c", "d"))
        with pytest.raises(ValueError, match="'a' is a concatenation, which can have no aliases"):
            Rule(("a", "b"), ("c",), aliases=("d",))


class TestColumns:
    """Parts along the second axis."""

    apart = KeyMapping([Rule(("center.{leaf}", "side.{leaf}"), ("anchors.{leaf}",), axis=1)])
    together = KeyMapping([Rule("anchors.{leaf}", ("center.{leaf}", "side.{leaf}"), axis=1)])

    @pytest.mark.parametrize("shape", [(3, 4), (3, 4, 2)], ids=str)
    def test_are_split_and_joined_again_in_order(self, shape: tuple[int, ...]) -> None:
        whole = torch.arange(math.prod(shape)).reshape(shape).float()
        parts = {"center.weight": whole[:, :2], "side.weight": whole[:, 2:]}
        backwards = dict(reversed(parts.items()))
        for split, join in (
            (self.apart.from_foreign, self.apart.to_foreign),
            (self.together.to_foreign, self.together.from_foreign),
        ):
            found = split({"anchors.weight": whole})
            assert list(found) == list(parts)
            for name, part in parts.items():
                assert torch.equal(found[name], part), name
            for given in (found, backwards):
                (again,) = join(given).items()
                assert again[0] == "anchors.weight"
                assert torch.equal(again[1], whole)

    @pytest.mark.parametrize("shape", [(4, 3), (4,), ()], ids=str)
    def test_must_divide(self, shape: tuple[int, ...]) -> None:
        for split in (self.apart.from_foreign, self.together.to_foreign):
            with pytest.raises(CheckpointError) as caught:
                split({"anchors.weight": torch.zeros(shape)})
            assert str(caught.value) == (
                f"'anchors.weight' of shape {list(shape)} does not split into 2 equal parts: the weights are of another model"
            )


class TestAliases:
    """One tensor under several foreign names, and the reverse."""

    mapping = KeyMapping([Rule("head.{leaf}", ("last.{leaf}",), aliases=("first.{leaf}", "middle.{leaf}"))])

    def test_all_names_are_written_the_main_one_first(self) -> None:
        tensor = torch.randn(2)
        found = self.mapping.to_foreign({"head.bias": tensor})
        assert list(found) == ["last.bias", "first.bias", "middle.bias"]
        assert all(value is tensor for value in found.values())

    @pytest.mark.parametrize("names", [["last"], ["middle"], ["middle", "first"], ["first", "middle", "last"]])
    def test_any_of_them_is_enough(self, names: list[str]) -> None:
        tensor = torch.tensor([1.0, torch.nan])  # equal numbers, whatever they are
        (own,) = self.mapping.from_foreign({f"{name}.bias": tensor.clone() for name in names}).items()
        assert own[0] == "head.bias"
        assert torch.equal(own[1].nan_to_num(7), torch.tensor([1.0, 7.0]))

    @pytest.mark.parametrize(
        "other", [torch.tensor([1.0, 2.1]), torch.tensor([1.0, 2.0], dtype=torch.float64), torch.tensor([1.0])], ids=str
    )
    def test_they_must_agree(self, other: Tensor) -> None:
        with pytest.raises(CheckpointError) as caught:
            self.mapping.from_foreign({"middle.bias": torch.tensor([1.0, 2.0]), "last.bias": other})
        assert str(caught.value) == (
            "'middle.bias' and 'last.bias' stand for one tensor but hold different values: the weights are of another model or damaged"
        )

    def test_a_name_without_a_place_stays_unknown(self) -> None:
        with pytest.raises(CheckpointError, match=r"1 tensors have no place in this model \(first\.bias\)"):
            self.mapping.from_foreign({"first.bias": torch.zeros(1)}, {"head.weight"})

    def test_a_concatenation_has_none(self) -> None:
        with pytest.raises(ValueError, match="'a' is a concatenation, which can have no aliases"):
            Rule("a", ("b", "c"), aliases=("d",))

    def test_one_foreign_tensor_may_fill_several_of_ours(self) -> None:
        mapping = KeyMapping([Rule(f"heads.{layer}.{{leaf}}", ("head.{leaf}",)) for layer in range(2)])
        tensor = torch.randn(2)
        own = mapping.from_foreign({"head.bias": tensor})
        assert own == {"heads.0.bias": tensor, "heads.1.bias": tensor}
        assert mapping.to_foreign(own) == {"head.bias": tensor}
        with pytest.raises(CheckpointError, match=r"^'heads\.0\.bias' and 'heads\.1\.bias' stand for one tensor"):
            mapping.to_foreign({**own, "heads.1.bias": tensor + 1})
