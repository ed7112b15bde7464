"""`detrkit models`."""

from __future__ import annotations


def models() -> None:
    """List everything that can be built, with the authors' published AP on COCO val2017 where there is one."""
    from rich.console import Console
    from rich.table import Table

    from detrkit.models.catalog import CATALOG

    table = Table()
    for column in ("variant", "backbone", "queries", "published AP", "licence of the weights"):
        table.add_column(column, no_wrap=True)
    table.add_column("weights", overflow="fold")
    for name, line in CATALOG.items():
        weights = line.weights
        published = ("-", "-", "-") if weights is None else (f"{weights.ap:.3f}", weights.licence, weights.address)
        table.add_row(name, line.config.backbone, str(line.config.queries), *published)
    Console().print(table)
