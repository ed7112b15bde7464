"""Detectors inside of PyTorch's wrappers: saved under their own names, evaluated and run as what they wrap."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

import detrkit
from detrkit.data import read_digits
from detrkit.errors import CheckpointError, ConfigurationError
from detrkit.models.catalog import CATALOG, build
from detrkit.models.detector import Detector, unwrapped
from detrkit.structures import ImageBatch

SMALL = {"width": 32, "hidden": 32, "encoder_layers": 1, "decoder_layers": 1, "queries": 6}


def small_model() -> Detector:
    model = build("detr-compact", classes=list("0123456789"), preprocessing=detrkit.Preprocessing(64, 64), **SMALL)
    model(ImageBatch(torch.randn(2, 3, 64, 64)))  # so that the norms have seen something
    return model.eval()


def compiled(module: nn.Module) -> nn.Module:
    return torch.compile(module, backend="eager")  # type: ignore[return-value]


class InLightning(nn.Module):
    """As a user's own training module holds a model beside other things."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.net, self.metric = model, nn.Linear(2, 2)


@pytest.fixture
def one_process(tmp_path: Path) -> object:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "compiled": compiled,
    "DataParallel": nn.DataParallel,
    "AveragedModel": AveragedModel,
    "compiled DataParallel": lambda model: compiled(nn.DataParallel(model)),
    "DataParallel of a compiled one": lambda model: nn.DataParallel(compiled(model)),
    "a training module": InLightning,
}


def assert_same_file(found: Path, wanted: Path) -> None:
    assert found.read_bytes() == wanted.read_bytes()
    again, model = detrkit.load(found), detrkit.load(wanted)
    batch = ImageBatch(torch.randn(1, 3, 64, 64))
    assert torch.equal(again(batch).logits, model(batch).logits)


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_a_wrapped_model_is_saved_like_the_one_within(tmp_path: Path, wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = small_model()
    wanted = detrkit.save(model, tmp_path / "plain.safetensors")
    assert_same_file(detrkit.save(wrap(model), tmp_path / "wrapped.safetensors"), wanted)


@pytest.mark.usefixtures("one_process")
def test_a_distributed_model_is_saved_like_the_one_within(tmp_path: Path) -> None:
    model = small_model()
    wanted = detrkit.save(model, tmp_path / "plain.safetensors")
    assert_same_file(detrkit.save(DistributedDataParallel(model), tmp_path / "wrapped.safetensors"), wanted)


@pytest.mark.parametrize("part", ["backbone", "decoder", "heads.box_head", "decoder.layers.0"])
@pytest.mark.parametrize("whole", [False, True], ids=["", "and the whole"])
def test_compiled_parts_have_their_plain_names(tmp_path: Path, part: str, whole: bool) -> None:
    model = small_model()
    wanted = detrkit.save(model, tmp_path / "plain.safetensors")
    owner, _, name = part.rpartition(".")
    setattr(model.get_submodule(owner), name, compiled(model.get_submodule(part)))
    assert any("_orig_mod" in key for key in model.state_dict())
    assert_same_file(detrkit.save(compiled(model) if whole else model, tmp_path / "wrapped.safetensors"), wanted)


def test_no_detector_has_parts_with_the_names_of_wrappers() -> None:
    with torch.device("meta"):
        for variant in CATALOG:
            names = {component for name in build(variant).state_dict() for component in name.split(".")}
            assert not names & {"_orig_mod", "module"}, variant


@pytest.mark.parametrize(
    "wrap", [WRAPPERS[name] for name in ("compiled", "DataParallel")], ids=["compiled", "DataParallel"]
)
def test_wrapped_models_are_evaluated_and_predict(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model, digits = small_model(), read_digits("val", images=4, size=64)
    wanted = detrkit.evaluate(model, digits)
    assert detrkit.evaluate(wrap(model), digits).figures == wanted.figures
    picture = digits.image(0)
    found = detrkit.Predictor(wrap(model), threshold=0)(picture)
    expected = detrkit.Predictor(model, threshold=0)(picture)
    np.testing.assert_allclose(found.xyxy, expected.xyxy, atol=1e-4)
    assert found.class_id.tolist() == expected.class_id.tolist()  # type: ignore[union-attr]


def test_a_compiled_model_runs_compiled() -> None:
    model = compiled(small_model())
    assert detrkit.Predictor(model).model is model
    parallel = nn.DataParallel(small_model())
    assert detrkit.Predictor(parallel).model is parallel.module
    assert type(detrkit.criterion_for(model)) is type(detrkit.criterion_for(parallel.module))


def test_paths_in_the_place_of_models(tmp_path: Path) -> None:
    model, digits = small_model(), read_digits("val", images=2, size=64)
    path = detrkit.save(model, tmp_path / "model.safetensors")
    for given in (path, str(path)):
        found = detrkit.Predictor(given, threshold=0)(digits.image(0))
        expected = detrkit.Predictor(model, threshold=0)(digits.image(0))
        np.testing.assert_array_equal(found.xyxy, expected.xyxy)
        assert detrkit.evaluate(given, digits).figures == detrkit.evaluate(model, digits).figures
    with pytest.raises(CheckpointError, match=r"^there is no weight file gone\.pth: check the path$"):
        detrkit.Predictor("gone.pth")


def test_what_is_no_model_or_no_data_set(tmp_path: Path) -> None:
    end = "give a model that detrkit.build or detrkit.load has returned"
    with pytest.raises(ConfigurationError) as caught:
        detrkit.save("model.safetensors", small_model())  # type: ignore[arg-type]
    assert str(caught.value) == f"'model.safetensors' is not a detector: {end}"
    with pytest.raises(ConfigurationError) as caught:
        detrkit.Predictor(None)  # type: ignore[arg-type]
    assert str(caught.value) == f"None is not a detector: {end}"
    end = "give one that detrkit.build or detrkit.load has returned"
    with pytest.raises(ConfigurationError) as caught:
        detrkit.save(nn.Linear(2, 2), tmp_path / "model.safetensors")
    assert str(caught.value) == f"the Linear holds no detectors: {end}"
    with pytest.raises(ConfigurationError) as caught:
        unwrapped(nn.ModuleList([small_model(), small_model()]))
    assert str(caught.value) == f"the ModuleList holds 2 detectors: {end}"
    with pytest.raises(ConfigurationError) as caught:
        detrkit.evaluate(small_model(), None)  # type: ignore[arg-type]
    assert str(caught.value) == (
        "evaluate needs a data set, not None: give its path, or detrkit.open_dataset(..., split)"
    )


@pytest.mark.parametrize("classes", [2, {0: "cat"}, {"cat"}, [0, 1], [], "cat", 0, np.array(["a", "b"])], ids=repr)
def test_classes_that_are_no_list_of_names(classes: object) -> None:
    with pytest.raises(ConfigurationError) as caught:
        build("detr-compact", classes=classes)  # type: ignore[arg-type]
    wanted = f'classes must be a list with at least one name, such as ["cat", "dog"], not {classes!r}'
    assert str(caught.value) == wanted
