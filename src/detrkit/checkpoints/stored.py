"""Options that lie beside the weights in a file: the authors' arguments or Hugging Face's settings, checked as they are read."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from detrkit.errors import CheckpointError

_ATTENTION_HEADS = ("nheads", "encoder_attention_heads", "decoder_attention_heads")


def stored_number(arguments: Mapping[str, Any], name: str, *, also_zero: bool = False) -> int | None:
    """A whole number among stored arguments; None if it is missing or null, which Hugging Face writes for defaults.

    Args:
        arguments: options stored beside the weights.
        name: the option.
        also_zero: whether the number can be 0.

    Raises:
        CheckpointError: the argument is something else.
    """
    value = arguments.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1 - also_zero):
        wanted = "0 or above" if also_zero else "above 0"
        raise CheckpointError(f"the stored setting {name} must be a whole number {wanted}, not {value!r}: correct it")
    return value


def stored_flag(arguments: Mapping[str, Any], name: str) -> bool | None:
    """True or False among stored arguments; None if it is missing or null.

    Raises:
        CheckpointError: the argument is something else.
    """
    value = arguments.get(name)
    if value is not None and not isinstance(value, bool):
        raise CheckpointError(f"the stored setting {name} must be true or false, not {value!r}: correct it")
    return value


def stored_float(arguments: Mapping[str, Any], name: str) -> float | None:
    """A finite number among stored arguments; None if it is missing or null.

    Raises:
        CheckpointError: the argument is something else.
    """
    value = arguments.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise CheckpointError(f"the stored setting {name} must be a finite number, not {value!r}: correct it")
    return float(value)


def stored_attention_heads(arguments: Mapping[str, Any], default: int) -> int:
    """The number of attention heads in stored arguments, or the default if they do not state it.

    Raises:
        CheckpointError: encoder and decoder have different numbers, or one of them is not a number.
    """
    stored = (stored_number(arguments, name) for name in _ATTENTION_HEADS)
    numbers = {number for number in stored if number is not None}
    if len(numbers) > 1:
        raise CheckpointError(
            f"the settings give encoder and decoder {' and '.join(map(str, sorted(numbers)))} attention heads: "
            "detrkit builds them with the same number only"
        )
    return numbers.pop() if numbers else default


def stored_dilation(arguments: Mapping[str, Any]) -> bool | None:
    """Whether stored arguments say that the backbone's last stage is dilated; None if they do not say.

    Raises:
        CheckpointError: the backbone's stride is not a number, or dilation is neither true nor false.
    """
    backbone = arguments.get("backbone_config")
    if isinstance(backbone, Mapping):  # as Hugging Face configures timm's backbones
        stride = stored_number(backbone, "output_stride")
        if stride is not None:
            return stride == 16
    return stored_flag(arguments, "dilation")
