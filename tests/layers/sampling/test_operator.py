"""Deformable attention: the authors' values and gradients, agreement of all implementations, threads, choice and export."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detrkit.errors import ConfigurationError
from detrkit.layers.sampling import operator as module
from detrkit.layers.sampling.operator import (
    ENVIRONMENT_VARIABLE,
    choice,
    deformable_attention_by,
    deformable_attention_reference,
    implementations,
    multi_scale_deformable_attention,
    without_compiled_kernels,
)

CPU = torch.device("cpu")
ON_CPU = [each.name for each in implementations() if each.usable and each.name != "triton"]
needs_numba = pytest.mark.skipif("numba" not in ON_CPU, reason="numba is not installed")
ODD_LEVELS = ((7, 5), (3, 1), (1, 4))
Inputs = tuple[Tensor, Tensor, Tensor]


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def random_inputs(
    *,
    levels: tuple[tuple[int, int], ...] = ODD_LEVELS,
    batch: int = 2,
    queries: int = 7,
    heads: int = 3,
    channels: int = 5,
    points: int = 2,
    dtype: torch.dtype = torch.float64,
    spread: float = 0.5,
) -> Inputs:
    """Random values, locations around the middle of the map, and weights that are not normalised."""
    cells = sum(height * width for height, width in levels)
    values = torch.randn(batch, cells, heads, channels, dtype=torch.float64)
    locations = 0.5 + spread * torch.randn(batch, queries, heads, len(levels), points, 2, dtype=torch.float64)
    weights = torch.rand(batch, queries, heads, len(levels), points, dtype=torch.float64)
    values, locations, weights = (each.to(dtype).requires_grad_() for each in (values, locations, weights))
    return values, locations, weights


def result_and_gradients(name: str, levels: tuple[tuple[int, int], ...], inputs: Inputs, seed: int = 3) -> list[Tensor]:
    values, locations, weights = inputs
    with deformable_attention_by(name):
        result = multi_scale_deformable_attention(values, levels, locations, weights)
    factors = torch.randn(result.shape, generator=torch.Generator().manual_seed(seed)).to(result.dtype)
    return [result.detach(), *torch.autograd.grad(result, inputs, factors)]


def by_hand(values: Tensor, levels: tuple[tuple[int, int], ...], locations: Tensor, weights: Tensor) -> Tensor:
    """Equation 3 with one Python loop per symbol."""
    batch, queries, heads, _, points, _ = locations.shape
    result = torch.zeros(batch, queries, heads, values.shape[-1], dtype=values.dtype)
    for b, q, m, k in np.ndindex(batch, queries, heads, points):
        start = 0
        for level, (height, width) in enumerate(levels):
            x, y = (locations[b, q, m, level, k] * torch.tensor([width, height]) - 0.5).tolist()
            for row in range(height):
                for column in range(width):
                    share = max(0.0, 1 - abs(x - column)) * max(0.0, 1 - abs(y - row))
                    result[b, q, m] += weights[b, q, m, level, k] * share * values[b, start + row * width + column, m]
            start += height * width
    return result.flatten(2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", ON_CPU)
def test_authors_values_and_gradients(shared: Path, name: str, dtype: torch.dtype) -> None:
    golden = np.load(shared / "golden/ms_deform_attn/golden.npz")
    inputs = [torch.from_numpy(golden[key]).to(dtype).requires_grad_() for key in ("value", "locations", "weights")]
    values, locations, weights = inputs
    with deformable_attention_by(name):
        result = multi_scale_deformable_attention(values, ((7, 5), (5, 1), (1, 3)), locations, weights)
    gradients = torch.autograd.grad(result, inputs, torch.from_numpy(golden["grad_output"]).to(dtype))

    tolerance = {"rtol": 0, "atol": 1e-12 if dtype == torch.float64 else 4e-5}
    torch.testing.assert_close(result.double(), torch.from_numpy(golden["output"]).double(), **tolerance)
    torch.testing.assert_close(gradients[0].double(), torch.from_numpy(golden["grad_value"]).double(), **tolerance)
    torch.testing.assert_close(gradients[2].double(), torch.from_numpy(golden["grad_weights"]).double(), **tolerance)
    # Exactly on the outermost kink the authors' kernel and formula differ: both are right.
    rules = [torch.from_numpy(golden[key]).double() for key in ("grad_locations", "kernel_grad_locations")]
    distance = torch.stack([(gradients[1].double() - rule).abs() for rule in rules]).amin(0)
    kink = torch.from_numpy(golden["kind"] == 5)
    assert distance[~kink].max() < tolerance["atol"]
    assert distance[kink].max() < tolerance["atol"]


@pytest.mark.parametrize("name", ON_CPU)
def test_equation_by_hand(name: str) -> None:
    inputs = random_inputs(batch=1, queries=4)
    result = result_and_gradients(name, ODD_LEVELS, inputs)[0]
    values, locations, weights = (each.detach() for each in inputs)
    torch.testing.assert_close(result, by_hand(values, ODD_LEVELS, locations, weights))


@pytest.mark.parametrize("name", ON_CPU)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    levels = ((3, 4), (2, 1))
    values, _, weights = random_inputs(levels=levels, batch=1, queries=3, heads=2, channels=3)
    pixels = torch.randint(-1, 4, (1, 3, 2, 2, 2, 2)) + 0.2 + 0.6 * torch.rand(1, 3, 2, 2, 2, 2)  # away from kinks
    sizes = torch.tensor([(width, height) for height, width in levels])[:, None]
    locations = ((pixels.double() + 0.5) / sizes).requires_grad_()
    with deformable_attention_by(name):
        assert torch.autograd.gradcheck(
            lambda *given: multi_scale_deformable_attention(given[0], levels, given[1], given[2]),
            (values, locations, weights),
        )


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"levels": ((9, 11),), "channels": 32, "heads": 1},
        {
            "levels": ((5, 6), (2, 3)),
            "channels": 16,
            "queries": 200,
            "points": 3,
        },  # so many that heads are copied first
        {"levels": ((4, 3),), "channels": 64, "batch": 1, "points": 1},
        {"spread": 50.0},
        {"channels": 1, "heads": 1},
    ],
)
@pytest.mark.parametrize("name", [name for name in ON_CPU if name != "reference"])
def test_same_as_reference(name: str, sizes: dict[str, Any]) -> None:
    inputs = random_inputs(**sizes)
    levels = sizes.get("levels", ODD_LEVELS)
    expected = result_and_gradients("reference", levels, inputs)
    for one, other in zip(result_and_gradients(name, levels, inputs), expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("queries", [3, 400])
@pytest.mark.parametrize("name", ON_CPU)
def test_invalid_locations_do_not_affect_other_queries(name: str, queries: int) -> None:
    values, locations, weights = random_inputs(queries=queries, dtype=torch.float32)
    expected = result_and_gradients(name, ODD_LEVELS, (values, locations, weights))
    broken = locations.detach().clone()
    broken[:, 1] = torch.tensor([torch.nan, torch.inf, -torch.inf, 1e30])[torch.randint(4, broken[:, 1].shape)]
    actual = result_and_gradients(name, ODD_LEVELS, (values, broken.requires_grad_(), weights))
    others = [query for query in range(queries) if query != 1]
    for index in (0, 2, 3):  # all but the gradient of the values, which is a sum over queries
        torch.testing.assert_close(actual[index][:, others], expected[index][:, others])
    if name != "reference":
        assert actual[0][:, 1].count_nonzero() == 0
        assert all(torch.isfinite(each).all() for each in actual)


@pytest.mark.parametrize(("batch", "queries"), [(0, 5), (2, 0)])
@pytest.mark.parametrize("name", ON_CPU)
def test_empty_inputs(name: str, batch: int, queries: int) -> None:
    result, grad_values, grad_locations, grad_weights = result_and_gradients(
        name, ODD_LEVELS, random_inputs(batch=batch, queries=queries)
    )
    assert result.shape == (batch, queries, 15)
    assert grad_values.count_nonzero() == 0
    assert (len(grad_locations), len(grad_weights)) == (batch, batch)


@pytest.mark.parametrize("queries", [7, 400])
@pytest.mark.parametrize("name", ON_CPU)
def test_memory_in_another_order(name: str, queries: int) -> None:
    inputs = random_inputs(queries=queries)
    expected = result_and_gradients(name, ODD_LEVELS, inputs)
    permuted = tuple(each.detach().transpose(0, -1).contiguous().transpose(0, -1).requires_grad_() for each in inputs)
    assert not any(each.is_contiguous() for each in permuted)
    for one, other in zip(result_and_gradients(name, ODD_LEVELS, permuted), expected, strict=True):  # type: ignore[arg-type]
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ON_CPU)
def test_half_precision_values_with_float32_coordinates(name: str, dtype: torch.dtype) -> None:
    values, locations, weights = random_inputs(queries=50, dtype=torch.float32)
    halved = values.detach().to(dtype).requires_grad_()
    actual = result_and_gradients(name, ODD_LEVELS, (halved, locations, weights))
    expected = result_and_gradients(
        "reference", ODD_LEVELS, (halved.detach().float().requires_grad_(), locations, weights)
    )
    assert [each.dtype for each in actual] == [dtype, dtype, torch.float32, torch.float32]
    for one, other, factor in zip(actual, expected, (1, 1, 30, 30), strict=True):  # gradients come from rounded factors
        torch.testing.assert_close(one.float(), other, rtol=factor * 2e-2, atol=factor * 2e-2)


def enough_for_threads() -> Inputs:
    return random_inputs(levels=((20, 30), (10, 15)), queries=4000, heads=8, channels=8, dtype=torch.float32)


@needs_numba
def test_number_of_threads_changes_nothing(threads: Callable[[int], None]) -> None:
    inputs, results = enough_for_threads(), []
    for count in (1, 2, 3):
        threads(count)
        results.append(result_and_gradients("numba", ((20, 30), (10, 15)), inputs))
    for others in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(results[0], others, strict=True))


@needs_numba
def test_two_python_threads_at_once(threads: Callable[[int], None]) -> None:
    threads(2)
    inputs = enough_for_threads()
    expected = result_and_gradients("numba", ((20, 30), (10, 15)), inputs)
    results: list[list[Tensor]] = []

    def work() -> None:
        for _ in range(3):
            results.append(result_and_gradients("numba", ((20, 30), (10, 15)), inputs))

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 6
    for each in results:
        assert all(torch.equal(one, other) for one, other in zip(each, expected, strict=True))


def test_an_error_in_a_helper_thread_is_not_lost(threads: Callable[[int], None]) -> None:
    run_in_threads = pytest.importorskip("detrkit.layers.sampling.numba_kernels")._run_in_threads
    threads(2)
    main = threading.get_ident()

    def task(image: int, head: int) -> None:
        if threading.get_ident() != main:
            helped.set()
            raise ArithmeticError("in a helper")
        assert helped.wait(60)

    helped = threading.Event()
    with pytest.raises(ArithmeticError, match="in a helper"):
        run_in_threads(task, 1, 2, 10**9)


def test_the_custom_operator_passes_the_checks_of_pytorch() -> None:
    pytest.importorskip("detrkit.layers.sampling.numba_kernels")
    values, locations, weights = random_inputs(queries=3, spread=0.2)
    torch.library.opcheck(
        torch.ops.detrkit.deformable_attention_numba.default,
        (values, locations, weights, [size for level in ODD_LEVELS for size in level]),
    )


def test_fastest_is_chosen_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_implementation", without("nothing"))
    assert choice(CPU, torch.float32).name == "numba"
    assert choice(CPU, torch.float32).reason.startswith("the fastest for cpu: numba ")
    assert choice(torch.device("meta"), torch.float32).name == "reference"
    monkeypatch.setattr(module, "_implementation", without("numba"))
    fallback = choice(CPU, torch.float32)
    assert fallback.name == "bags"
    assert fallback.reason == "the fastest for cpu: plain PyTorch, embedding_bag; not 'numba': numba cannot be imported"
    monkeypatch.setattr(module, "_implementation", without("triton"))
    assert choice(torch.device("cuda"), torch.float32).name == "reference"
    assert choice(torch.device("cuda"), torch.float32).reason == "not 'triton': triton cannot be imported (float32)"


def without(missing: str) -> Callable[[str], module.Implementation]:
    """The list of implementations on a computer that lacks one package and has all others."""

    def implementation(name: str) -> module.Implementation:
        devices = {"reference": (), "bags": ("cpu",), "numba": ("cpu",), "triton": ("cuda",)}[name]
        reason = "plain PyTorch, embedding_bag" if name == "bags" else f"{name} 1.0"
        if name == missing:
            reason = f"{name} cannot be imported"
        return module.Implementation(name, name != missing, reason, devices, "float32")

    return implementation


def test_context_comes_before_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "bags")
    assert (choice(CPU, torch.float32).name, choice(CPU, torch.float32).reason) == (
        "bags",
        "requested by DETRKIT_DEFORMABLE_ATTENTION",
    )
    with deformable_attention_by("reference"):
        assert choice(CPU, torch.float32).name == "reference"
        seen: list[str] = []
        other = threading.Thread(target=lambda: seen.append(choice(CPU, torch.float32).name))
        other.start()
        other.join()
        assert seen == ["bags"]  # the block applies to its own thread only
    assert choice(CPU, torch.float32).name == "bags"


def test_plain_pytorch_where_nothing_should_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_implementation", without("nothing"))
    with without_compiled_kernels():
        assert choice(CPU, torch.float32).name == "reference"
        assert choice(torch.device("cuda"), torch.float32).name == "triton"
        with deformable_attention_by("bags"):  # what is requested comes first
            assert choice(CPU, torch.float32).name == "bags"
        monkeypatch.setenv(ENVIRONMENT_VARIABLE, "numba")
        assert choice(CPU, torch.float32).name == "numba"
    monkeypatch.delenv(ENVIRONMENT_VARIABLE)
    assert choice(CPU, torch.float32).name == "numba"


def test_names_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_implementation", without("triton"))
    with (
        pytest.raises(ConfigurationError, match=r"no deformable attention by 'numbas', did you mean 'numba'\?"),
        deformable_attention_by("numbas"),
    ):
        pass
    with (
        pytest.raises(
            ConfigurationError, match=r"'triton' cannot be used on this computer \(triton cannot be imported\)"
        ),
        deformable_attention_by("triton"),
    ):
        pass
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "numba")
    with pytest.raises(
        ConfigurationError, match=r"DETRKIT_DEFORMABLE_ATTENTION: .* with float32 on 'cuda', choose one of 'reference'$"
    ):
        choice(torch.device("cuda"), torch.float32)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "fast")
    with pytest.raises(ConfigurationError, match=r"'fast', choose one of 'reference', 'bags', 'numba', 'triton'"):
        choice(CPU, torch.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"levels": ((7, 5), (3, 1), (0, 4))}, "level 2 is 0 x 4, and a level smaller than one cell"),
        (
            {"levels": ((7, 5), (3, 2), (1, 4))},
            r"not \(batch, 45 cells, heads, channels\), as levels of 7 x 5, 3 x 2, 1 x 4 need",
        ),
        ({"levels": ((7, 5), (7, 1))}, "3 heads, 2 levels, points, 2"),
        ({"weights": torch.rand(2, 7, 3, 3, 4)}, "one weight per location"),
        ({"locations": torch.rand(2, 7, 3, 3, 2, 2).half()}, "too coarse for coordinates"),
    ],
)
def test_shapes_that_do_not_match(change: dict[str, Any], message: str) -> None:
    values, locations, weights = random_inputs()
    inputs = {"values": values, "levels": ODD_LEVELS, "locations": locations, "weights": weights} | change
    with pytest.raises(ConfigurationError, match=message):
        multi_scale_deformable_attention(inputs["values"], inputs["levels"], inputs["locations"], inputs["weights"])


class Sampler(nn.Module):
    """A model around the operator, with two levels whose sizes come from the inputs."""

    def forward(self, fine: Tensor, coarse: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        sizes = tuple((each.shape[2], each.shape[3]) for each in (fine, coarse))
        values = torch.cat([each.flatten(2).transpose(1, 2) for each in (fine, coarse)], 1).unflatten(-1, (2, -1))
        return multi_scale_deformable_attention(values, sizes, locations, weights)


def sampler_inputs(height: int, width: int, queries: int) -> tuple[Tensor, ...]:
    fine, coarse = torch.randn(1, 8, height, width), torch.randn(1, 8, height // 2, width // 2 + 1)
    return fine, coarse, torch.rand(1, queries, 2, 2, 3, 2), torch.rand(1, queries, 2, 2, 3)


def test_exported_for_any_size() -> None:
    size = torch.export.Dim.DYNAMIC
    shapes = ({2: size, 3: size}, {2: size, 3: size}, {1: size}, {1: size})
    exported = torch.export.export(Sampler(), sampler_inputs(6, 8, 5), dynamic_shapes=shapes)
    assert "detrkit" not in str(exported.graph)
    assert "grid_sampler" in str(exported.graph)
    other = sampler_inputs(11, 15, 9)
    torch.testing.assert_close(exported.module()(*other), Sampler()(*other))


def test_reference_is_traced() -> None:
    inputs = sampler_inputs(6, 8, 5)
    traced = torch.jit.trace(Sampler(), inputs, check_trace=False)
    assert "detrkit::" not in str(traced.graph)
    torch.testing.assert_close(traced(*inputs), Sampler()(*inputs))


def test_under_compile() -> None:
    inputs = sampler_inputs(6, 8, 5)
    compiled = torch.compile(Sampler(), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*inputs), Sampler()(*inputs))


def test_result_is_that_of_the_reference_by_default() -> None:
    values, locations, weights = random_inputs(dtype=torch.float32)
    torch.testing.assert_close(
        multi_scale_deformable_attention(values, ODD_LEVELS, locations, weights),
        deformable_attention_reference(values, ODD_LEVELS, locations, weights),
    )


def test_the_choice_depends_on_the_type_too(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = module.Implementation("triton", True, "triton 9", ("cuda",), "float32", without_float64=True)
    real = module._implementation
    monkeypatch.setattr(module, "_implementation", lambda name: fake if name == "triton" else real(name))
    assert module.choice(torch.device("cuda"), torch.float32).name == "triton"
    exact = module.choice(torch.device("cuda"), torch.float64)
    assert exact.name == "reference"
    assert "it has no torch.float64" in exact.reason


def test_numba_without_a_cache_folder_is_not_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    real = module.importlib.import_module

    def failing(name: str) -> object:
        if name.endswith("numba_kernels"):
            raise RuntimeError("cannot cache function")
        return real(name)

    module._implementation.cache_clear()
    monkeypatch.setattr(module.importlib, "import_module", failing)
    try:
        assert module.choice(torch.device("cpu"), torch.float32).name == "bags"
        assert "NUMBA_CACHE_DIR" in module.choice(torch.device("cpu"), torch.float32).reason
    finally:
        module._implementation.cache_clear()
