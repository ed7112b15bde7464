"""Models whose weights come from a file: their random initial values would be drawn, and take memory, only to be replaced."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# Everything that initialisations draw with. Those of `nn.init` are asked for as a whole, the others by the methods that they call.
_DRAWS: frozenset[Callable[..., Any]] = frozenset(
    {
        *(nn.init.uniform_, nn.init.normal_, nn.init.kaiming_uniform_),
        *(Tensor.uniform_, Tensor.normal_, Tensor.random_, Tensor.bernoulli_, Tensor.exponential_),
    }
)
_NEW_DRAWS: frozenset[Callable[..., Any]] = frozenset({torch.rand, torch.randn})


class WithoutRandomValues(TorchFunctionMode):
    """Inside this block tensors that would be filled with random values keep whatever their memory holds; the generator is left alone.

    For a model whose every tensor is replaced afterwards.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Calls the function, unless it draws."""
        if func in _NEW_DRAWS:
            return torch.zeros(*args, **(kwargs or {}))
        if func in _DRAWS:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))
