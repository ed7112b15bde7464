"""`detrkit convert-weights`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from detrkit.commands.values import VariantText


def convert_weights(
    checkpoint: Path,
    output: Path,
    *,
    to: Literal["own", "authors", "huggingface"] | None = None,
    timm_backbone: bool | None = None,
    variant: VariantText = None,
    classes: Annotated[tuple[str, ...] | None, Parameter(consume_multiple=True, negative=())] = None,
    force: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Write a model's weights as its authors, Hugging Face's transformers or detrkit read them.

    Weights stay what they are, bit by bit; classes, thresholds and preprocessing travel along. A data set: detrkit convert.

    Args:
        checkpoint: the authors' file, Hugging Face's folder, detrkit's own file, or a run's folder.
        output: the file to write, or for Hugging Face the folder.
        to: the form to write. Without it the output's name decides: .safetensors is detrkit's own, .pth the authors', a folder Hugging Face's.
        timm_backbone: for Hugging Face, take timm's ResNet instead of transformers' own; dilated ones (dc5) always are timm's.
        variant: name of the checkpoint's variant, if the file does not say.
        classes: names of the classes in the order of the outputs, if the file does not say.
        force: replace the output if it exists.
    """
    from detrkit.checkpoints.places import find_weights
    from detrkit.commands.checkpoints import loading
    from detrkit.files import expanded
    from detrkit.models.listing import check_name
    from detrkit.terminal import terminal

    file = find_weights(checkpoint)
    if variant is not None:
        check_name(variant)
    console = terminal()
    with loading(checkpoint):
        from detrkit.checkpoints.converting import convert_weights as convert

        written = convert(
            file, output, to=to, timm_backbone=timm_backbone, variant=variant, classes=classes, force=force
        )
    if file != expanded(checkpoint):
        console.print(f"Note: {checkpoint} is a folder, its {file.name} is used.")
    for note in written.notes:
        console.print(note)
    console.print(f"{written.variant}, written to {written.path} {_IN_WORDS[written.form]}", soft_wrap=True)
    following = f"detrkit predict {written.path} IMAGES"
    if written.architecture:
        following = f'transformers.{written.architecture}.from_pretrained("{written.path}") in Python, or {following}'
    console.print(f"Next: {following}", soft_wrap=True)


_IN_WORDS = {
    "own": "in detrkit's own form",
    "authors": "in its authors' form",
    "huggingface": "in Hugging Face's form",
}
