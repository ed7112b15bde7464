"""What studies change in detectors does what it says, and nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from studies.made import batch, module_of, small
from support import make_memory
from torch import nn

from detrkit.errors import ConfigurationError, NonFiniteError
from detrkit.layers.transformer import Encoder, EncoderLayer
from detrkit.matching.transfer import run_together
from detrkit.models.detector import EncoderDecoder
from detrkit.studies.attention_maps import maps_of, modes_of, spread_of
from detrkit.studies.attention_weights import SynthesizedAttention, replace_attention
from detrkit.studies.learned_queries import take_queries
from detrkit.studies.learning import of_one_class
from detrkit.studies.matching import learn_matches
from detrkit.studies.order import NoAttention, look, permuted_queries, without_first_self_attention
from detrkit.studies.parts import decoder_layers, encoder_layers
from detrkit.studies.positions import (
    ConvolutionEncoder,
    ConvolutionLayer,
    DecoderPositionEncoder,
    KeyPositionLayer,
    LearnedPositions,
    NoPositions,
    OnceEncoder,
    convolution_besides,
    convolution_instead,
    decoder_only,
    keys_only,
    learned,
    none,
    once,
)
from detrkit.studies.query_count import FunnelDecoder, funnel
from detrkit.studies.self_supervision import PatchData, PatchQueries, find_patches, start_from_patches
from detrkit.training.module import TrainingModule


def kept(model: nn.Module, folder: Path) -> Path:
    """The folder of a run with these weights."""
    folder.mkdir()
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "last.safetensors")
    return folder


def memory(side: int = 4, width: int = 32) -> Any:
    generator = torch.Generator().manual_seed(0)
    tokens, positions = torch.randn(2, 2, side * side, width, generator=generator)
    return make_memory(tokens, positions, None, ((side, side),))


class TestMatching:
    def test_every_layer_gets_the_matches_of_the_trained_detectors_last_one(self, tmp_path: Path) -> None:
        module, teacher = module_of(), small()
        with torch.no_grad():
            for parameter in teacher.parameters():
                parameter.mul_(1.5)
        own = module.criterion.matcher  # type: ignore[attr-defined]
        learn_matches(module, kept(teacher, tmp_path / "teacher"))
        images, targets = batch()
        output = module.model(images)
        (taught,) = run_together([module.criterion.matcher.task(output, targets)])  # type: ignore[attr-defined]
        expected = own(teacher(images), targets)
        for layer in range(2):
            assert torch.equal(taught.queries[layer], expected.queries[-1])
            assert torch.equal(taught.batch_objects[layer], expected.batch_objects[-1])
        assert not torch.equal(taught.queries, own(output, targets).queries)
        broken = dataclasses.replace(output, logits=output.logits * torch.nan)
        with pytest.raises(NonFiniteError):
            run_together([module.criterion.matcher.task(broken, targets)])  # type: ignore[attr-defined]

    def test_the_teacher_is_not_part_of_the_model(self, tmp_path: Path) -> None:
        module = module_of()
        before = set(module.state_dict())
        learn_matches(module, kept(small(), tmp_path / "teacher"))
        assert set(module.state_dict()) == before


class TestLearnedQueries:
    @pytest.mark.parametrize("variant", ["detr-compact", "conditional-detr-compact"])
    @pytest.mark.parametrize("frozen", [False, True])
    def test_queries_alone_are_those_of_the_other_run(self, variant: str, frozen: bool, tmp_path: Path) -> None:
        module, other = module_of(variant), small(variant)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.add_(1)
        before = {name: value.clone() for name, value in module.model.state_dict().items()}
        take_queries(module, kept(other, tmp_path / "other"), frozen=frozen)
        for name, value in module.model.state_dict().items():
            expected = other.state_dict() if name.startswith("query_source.") else before
            assert torch.equal(value, expected[name])
        learns = [each.requires_grad for each in module.model.get_submodule("query_source").parameters()]
        assert learns == [not frozen] * len(learns)
        assert all(each.requires_grad for each in module.model.get_submodule("decoder").parameters())


class TestOrder:
    def test_permuted_queries_give_permuted_predictions(self) -> None:
        model, (images, _) = small(), batch(2)
        order = torch.randperm(10, generator=torch.Generator().manual_seed(1))
        plain = model(images)
        with permuted_queries(model, order):
            permuted = model(images)
        torch.testing.assert_close(permuted.boxes_cxcywh, plain.boxes_cxcywh[:, :, order], rtol=0, atol=1e-5)
        assert not torch.equal(permuted.boxes_cxcywh, plain.boxes_cxcywh)
        assert torch.equal(model(images).boxes_cxcywh, plain.boxes_cxcywh)  # only while the context is open

    def test_the_first_self_attention_adds_the_same_to_queries_without_content(self) -> None:
        data = type("Data", (), {"validation": _digits()})()
        assert look(small(), data)["spread"] < 1e-5
        assert look(small("dab-detr-compact", learned_content=True), data)["spread"] > 0.01

    def test_it_can_be_left_out(self) -> None:
        module = module_of()
        without_first_self_attention(module)
        first, second = decoder_layers(module.model)
        assert isinstance(first.self_attention, NoAttention)
        assert not isinstance(second.self_attention, NoAttention)
        images, _ = batch(2)
        before = module.model.eval()(images).boxes_cxcywh
        first.self_attention = decoder_layers(small())[0].self_attention
        # It adds the same to all queries, and nothing at all before its biases have learned anything.
        assert torch.equal(module.model(images).boxes_cxcywh, before)
        nn.init.constant_(first.self_attention.output.bias, 1.0)
        nn.init.normal_(first.self_attention.projection_bias)
        assert not torch.equal(module.model(images).boxes_cxcywh, before)


def _digits() -> Any:
    from detrkit.data import read_digits

    return read_digits("val", images=16, size=64)


class TestQueryCount:
    def test_as_many_queries_in_every_layer_are_conditional_detr(self) -> None:
        model, (images, _) = small("conditional-detr-compact"), batch(2)
        module = module_of("conditional-detr-compact")
        nn.init.normal_(model.get_submodule("heads").box_head.output.weight)  # type: ignore[union-attr, arg-type]
        module.model.load_state_dict(model.state_dict())
        funnel(module, counts=(10, 10))
        assert isinstance(module.model.get_submodule("decoder"), FunnelDecoder)
        output, expected = module.model.eval()(images), model(images)
        torch.testing.assert_close(output.boxes_cxcywh, expected.boxes_cxcywh, rtol=0, atol=1e-5)
        torch.testing.assert_close(output.logits, expected.logits, rtol=0, atol=1e-4)

    def test_queries_that_a_layer_leaves_out_keep_their_states(self) -> None:
        module, (images, _) = module_of("conditional-detr-compact", decoder_layers=3), batch(2)
        funnel(module, counts=(10, 4, 2))
        output = module.model.eval()(images)
        stays = (output.logits[1] == output.logits[0]).all(-1)  # (B, Q)
        assert stays.sum(1).tolist() == [6, 6]
        stay_later = (output.logits[2] == output.logits[1]).all(-1)
        assert stay_later.sum(1).tolist() == [8, 8]
        assert not (stays & ~stay_later).any()  # what was left out once stays so
        scores = output.logits[0].amax(-1)
        for image in range(2):
            assert scores[image][~stays[image]].min() >= scores[image][stays[image]].max()


class TestPositions:
    def test_learned_codes_tell_rows_and_columns_apart(self) -> None:
        codes = LearnedPositions(8)(torch.zeros(2, 8, 3, 5), None)
        assert codes.shape == (2, 8, 3, 5)
        assert torch.equal(codes[0, :4, 1, 0], codes[1, :4, 1, 4])
        assert torch.equal(codes[0, 4:, 0, 2], codes[0, 4:, 2, 2])
        assert not torch.equal(codes[0, :4, 0, 0], codes[0, :4, 1, 0])

    def test_without_codes_cells_are_a_set(self) -> None:
        features = torch.randn(2, 32, 3, 5)
        codes = NoPositions()(features, None)
        assert codes.shape == features.shape
        assert not codes.any()
        module = module_of()
        none(module)
        model = module.model.eval()
        memory = model.stages(batch(2)[0]).memory
        order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
        permuted = dataclasses.replace(memory, tokens=memory.tokens[:, order])
        layer = encoder_layers(model)[0]
        assert not memory.positions.any()
        torch.testing.assert_close(layer(permuted.tokens, memory.positions), layer(memory.tokens, None)[:, order])

    def test_codes_on_keys_alone(self) -> None:
        layer, given = EncoderLayer(width=32, attention_heads=2, hidden=32, dropout=0.0).eval(), memory()
        plain = layer(given.tokens, given.positions)
        layer.__class__ = KeyPositionLayer
        attended = layer.attention(given.tokens, given.tokens + given.positions, given.tokens)
        expected = layer.feed_forward(layer.norm(given.tokens + attended))
        assert torch.equal(layer(given.tokens, given.positions), expected)
        assert not torch.equal(expected, plain)
        nothing = torch.zeros_like(given.positions)
        torch.testing.assert_close(layer(given.tokens, nothing), layer(given.tokens, None))

    def test_codes_once(self) -> None:
        given, layers = memory(), [EncoderLayer(width=32, attention_heads=2, hidden=32, dropout=0.0) for _ in range(2)]
        found = OnceEncoder(list(layers)).eval()(given)
        placed = dataclasses.replace(given, tokens=given.tokens + given.positions, positions=None)
        assert torch.equal(found.tokens, Encoder(list(layers)).eval()(placed).tokens)
        assert not found.positions.any()

    def test_a_convolution_that_starts_at_zero_changes_nothing(self) -> None:
        given, layer = memory(), EncoderLayer(width=32, attention_heads=2, hidden=32, dropout=0.0)
        wrapped = ConvolutionLayer(layer, 32)
        encoder = ConvolutionEncoder([wrapped]).eval()
        assert torch.equal(encoder(given).tokens, Encoder([layer])(given).tokens)
        nn.init.constant_(wrapped.convolution.weight, 0.1)
        changed = encoder(given).tokens
        assert not torch.allclose(changed, Encoder([layer])(given).tokens)

    def test_codes_in_the_decoder_only(self) -> None:
        given, layer = memory(), EncoderLayer(width=32, attention_heads=2, hidden=32, dropout=0.0)
        found = DecoderPositionEncoder([layer]).eval()(given)
        assert torch.equal(found.tokens, layer(given.tokens, None))
        assert torch.equal(found.positions, given.positions)

    @pytest.mark.parametrize("change", [learned, none, keys_only, once, decoder_only])
    def test_each_change_reaches_the_model(self, change: Any) -> None:
        images, module = batch(2)[0], module_of()
        before = module.model.eval()(images).boxes_cxcywh
        change(module)
        after = module.model(images).boxes_cxcywh
        assert torch.isfinite(after).all()
        assert not torch.equal(after, before)

    def test_convolutions_reach_the_model(self) -> None:
        images, module = batch(2)[0], module_of()
        convolution_besides(module)
        before = module.model.eval()(images).boxes_cxcywh
        assert torch.equal(before, small_like(module)(images).boxes_cxcywh)
        nn.init.constant_(encoder_layers(module.model)[0].convolution.weight, 0.1)
        assert not torch.equal(module.model(images).boxes_cxcywh, before)
        convolution_instead(module)
        assert isinstance(module.model.get_submodule("neck").position_encoding, NoPositions)


def small_like(module: TrainingModule) -> EncoderDecoder:
    """The module's model without its convolutions."""
    model = small()
    names = {name.replace(".layer.", "."): value for name, value in module.model.state_dict().items()}
    model.load_state_dict({name: value for name, value in names.items() if ".convolution." not in name})
    return model


class TestAttentionWeights:
    @pytest.mark.parametrize("queries", [None, 6])
    def test_keys_do_not_matter_and_weights_sum_to_one(self, queries: int | None) -> None:
        attention = SynthesizedAttention(width=32, attention_heads=2, keys=9, queries=queries)
        query, value = torch.randn(2, 6, 32), torch.randn(2, 1, 32).expand(-1, 9, -1)
        found = attention(query, torch.randn(2, 9, 32), value)
        assert torch.equal(found, attention(query, torch.randn(2, 9, 32), value))
        expected = attention.output(attention.value(value[:, :1])).expand(-1, 6, -1)
        torch.testing.assert_close(found, expected)

    def test_only_weights_from_the_query_depend_on_it(self) -> None:
        values = torch.randn(1, 9, 32)
        for queries, same in ((6, True), (None, False)):
            attention = SynthesizedAttention(width=32, attention_heads=2, keys=9, queries=queries)
            first, second = (attention(torch.randn(1, 6, 32), values, values) for _ in range(2))
            assert torch.equal(first, second) == same

    @pytest.mark.parametrize("learned", [True, False])
    def test_random_weights_travel_with_the_model_and_learn_where_they_shall(self, learned: bool) -> None:
        attention = SynthesizedAttention(width=32, attention_heads=2, keys=9, queries=6, learned=learned)
        assert "random" in attention.state_dict()
        assert attention.random is not None
        assert attention.random.requires_grad == learned

    def test_other_images_are_refused(self) -> None:
        attention = SynthesizedAttention(width=32, attention_heads=2, keys=9)
        query, nine, twelve = (torch.randn(1, count, 32) for count in (6, 9, 12))
        with pytest.raises(ConfigurationError, match=r"for images of 9 cells, not for images of 12.*--data digits"):
            attention(query, twelve, twelve)
        with pytest.raises(ConfigurationError, match="not for padded images"):
            attention(query, nine, nine, torch.ones(1, 1, 1, 9, dtype=torch.bool))

    @pytest.mark.parametrize(("part", "name"), [("encoder", "attention"), ("decoder", "cross_attention")])
    def test_one_kind_of_attention_is_replaced(self, part: str, name: str) -> None:
        module, (images, _) = module_of(), batch(2)
        replace_attention(module, part=part, name=name, random=part == "encoder")
        layers = (encoder_layers if part == "encoder" else decoder_layers)(module.model)
        replaced = [each for each in module.model.modules() if isinstance(each, SynthesizedAttention)]
        assert replaced == [getattr(layer, name) for layer in layers]
        assert torch.isfinite(module.model.eval()(images).boxes_cxcywh).all()


class TestSelfSupervision:
    def test_patches_lie_in_the_image_and_follow_from_seed_epoch_and_image(self) -> None:
        module = module_of()
        find_patches(module)
        data = module.data
        assert isinstance(data, PatchData)
        data.set_epoch(0)
        first = data[3].target.boxes_cxcywh
        assert torch.equal(data[3].target.boxes_cxcywh, first)
        assert first.shape == (5, 4)
        assert ((first[:, :2] - first[:, 2:] / 2 >= 0) & (first[:, :2] + first[:, 2:] / 2 <= 1)).all()
        assert not torch.equal(data[4].target.boxes_cxcywh, first)
        data.set_epoch(1)
        assert not torch.equal(data[3].target.boxes_cxcywh, first)

    def test_each_group_of_queries_gets_its_patch_and_sees_itself_alone(self) -> None:
        module = module_of()
        find_patches(module)
        model = module.model
        assert isinstance(model, EncoderDecoder)
        images, _ = batch(2)
        targets = [module.data[index].target for index in range(2)]
        queries = model.stages(images, targets).queries
        assert queries.mask.shape == (1, 1, 10, 10)
        assert queries.mask.sum().item() == 5 * 2 * 2
        content = queries.content.unflatten(1, (5, 2))
        assert torch.equal(content[:, :, 0], content[:, :, 1])
        assert not torch.allclose(content[:, 0], content[:, 1])
        assert model.stages(images).queries.mask is None

    def test_a_step_learns_from_patches_and_objects_come_after(self, tmp_path: Path) -> None:
        module = module_of()
        find_patches(module)
        loss = _step(module)
        loss.backward()
        source = module.model.get_submodule("query_source")
        assert isinstance(source, PatchQueries)
        assert source.projection.weight.grad is not None
        after = module_of()
        head = after.model.get_submodule("heads").class_head.weight.clone()  # type: ignore[union-attr]
        with torch.no_grad():
            for parameter in module.model.parameters():
                parameter.add_(0.5)
        own = {name: value.clone() for name, value in after.model.state_dict().items()}
        folder = kept(module.model, tmp_path / "patches")
        start_from_patches(after, folder, part="backbone.")
        for name, value in after.model.state_dict().items():
            expected = module.model.state_dict() if name.startswith("backbone.") else own
            assert torch.equal(value, expected[name])
        start_from_patches(after, folder)
        assert torch.equal(after.model.get_submodule("heads").class_head.weight, head)  # type: ignore[union-attr, arg-type]
        taken = after.model.get_submodule("query_source").position.weight  # type: ignore[union-attr]
        assert torch.equal(taken, source.plain.position.weight)  # type: ignore[union-attr, arg-type]


def _step(module: TrainingModule) -> torch.Tensor:
    images, _ = batch(2)
    return module.training_step((images, [module.data[index].target for index in range(2)]), 0)


class TestAttentionMaps:
    def test_modes_are_the_high_local_maxima(self) -> None:
        maps = torch.zeros(3, 16, 16)
        maps[0, 4, 4] = 1.0
        maps[1, 4, 4], maps[1, 12, 12] = 1.0, 0.6
        maps[2, 4, 4], maps[2, 12, 12] = 1.0, 0.4
        assert modes_of(maps).tolist() == [1, 2, 1]

    def test_the_spread_is_that_of_the_masses(self) -> None:
        even = torch.full((1, 64, 64), 1 / 64**2)
        assert spread_of(even).item() == pytest.approx((1 / 6) ** 0.5, abs=1e-3)
        two = torch.zeros(1, 4, 4)
        two[0, 1, 0] = two[0, 1, 2] = 0.5
        assert spread_of(two).item() == pytest.approx(0.25)

    @pytest.mark.parametrize("variant", ["detr-compact", "conditional-detr-compact", "dab-detr-compact"])
    def test_maps_sum_to_one_and_belong_to_the_predictions(self, variant: str) -> None:
        model, (images, _) = small(variant), batch(2)
        with torch.no_grad():
            maps, boxes, found = maps_of(model, images)
            output = model(images)
        torch.testing.assert_close(maps.sum((2, 3)), torch.ones(2, 10))
        assert torch.equal(boxes, output.boxes_cxcywh[-1])
        # DETR's last score is that of no object, and counts nothing here.
        named = output.logits[-1].softmax(-1)[..., :-1] if variant == "detr-compact" else output.logits[-1].sigmoid()
        assert [queries[0] for queries in found] == named.amax(-1).argmax(1).tolist()
        assert all(len(set(queries)) == len(queries) for queries in found)
        assert not torch.allclose(maps[0, 0], maps[0, 1])


def test_one_class_keeps_all_objects() -> None:
    digits = _digits()
    single = of_one_class(digits)
    assert set(single.labels.tolist()) == {0}
    assert len(single.labels) == len(digits.labels)
    assert len(set(digits.labels.tolist())) > 1
