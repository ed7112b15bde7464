"""`detrkit models`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from detrkit.commands.values import VariantText

if TYPE_CHECKING:
    from rich.console import Console


def models(variant: VariantText = None, *, json: Annotated[bool, Parameter(negative=())] = False) -> None:
    """List everything that can be built: parameters, the best AP on COCO val2017 that its authors published, and their licence.

    With the name of a variant, show all about it.

    Args:
        variant: show this one: where its code and weights are from, what was published, every setting with its value and meaning, its recipe
            and preprocessing.
        json: print all of it as JSON, of one variant or of all.
    """
    from detrkit.models.listing import check_name, listed_variants
    from detrkit.terminal import terminal

    if variant is not None:
        check_name(variant)
    if json:
        _print_json(variant)
    elif variant is None:
        _list(terminal())
    else:
        from detrkit.commands.settings_table import show_variant
        from detrkit.models.catalog import find_variant

        show_variant(variant, find_variant(variant), listed_variants()[variant].parameters, terminal())


def _list(console: Console) -> None:
    from detrkit.models.listing import listed_variants
    from detrkit.terminal import add_numbers, narrow_table

    table = narrow_table("", caption="AP: the best published, COCO val2017. Licence: of the authors' code and weights.")
    table.padding = 0  # so that the longest name fits into 80 characters
    table.add_column("variant", no_wrap=True)
    table.add_column("backbone", no_wrap=True)
    add_numbers(table, "params", "AP")
    table.add_column("licence", no_wrap=True)
    variants = listed_variants()
    for name, variant in variants.items():
        ap = "-" if variant.ap is None else f"{variant.ap:.3f}"
        table.add_row(name, variant.backbone, in_millions(variant.parameters), ap, variant.licence)
    console.print(table)
    console.print("Published weights:")
    for name, variant in variants.items():
        for each in variant.weights:
            tag = f", {each.tag}" if each.tag else ""
            console.print(f"  {name:38}{each.address} ({each.licence}{tag})", soft_wrap=True)
    exceptions = [(name, sentence) for name, variant in variants.items() for sentence in variant.exceptions]
    if exceptions:
        console.print("To know:")
        width = max(len(name) for name, _ in exceptions)
        for name, sentence in exceptions:
            console.print(f"  {name:{width}}  {sentence}", soft_wrap=True)
    console.print("All about one: detrkit models VARIANT. All about all, for programs: detrkit models --json")


def in_millions(parameters: int) -> str:
    """A number of parameters as people say it, such as 41.5M."""
    return f"{parameters / 1e6:.1f}M"


def _print_json(name: str | None) -> None:
    import json
    from dataclasses import asdict

    from detrkit.models.listing import listed_variants

    if name is None:
        print(json.dumps({key: asdict(each) for key, each in listed_variants().items()}, indent=1))
        return
    from detrkit.models.catalog import find_variant

    variant = find_variant(name)
    rest: dict[str, Any] = {
        "settings": variant.config,
        "recipe": variant.recipe,
        "preprocessing": variant.preprocessing,
    }
    entry = {"name": name, **asdict(listed_variants()[name]), **{key: asdict(value) for key, value in rest.items()}}
    print(json.dumps(entry, indent=1))
