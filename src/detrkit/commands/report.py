"""`detrkit report`."""

from __future__ import annotations

from pathlib import Path

from detrkit.commands.values import OptionalPathText


def report(run: Path, *, data: OptionalPathText = None, device: str | None = None) -> None:
    """Write a run's curves, report, charts and pictures again, without training.

    The run may be finished or have been stopped; its own options and data apply. Where the data are gone, the report has what does not
    need them.

    Args:
        run: folder that training wrote to.
        data: where the run's data are now, if they were moved.
        device: auto, cpu, cuda, cuda:1 or mps; by default the run's own, if this machine has it.
    """
    from detrkit.terminal import terminal
    from detrkit.training.run_places import check_is_run

    check_is_run(run)  # before PyTorch is loaded
    from detrkit.evaluation.tables import detailed_table
    from detrkit.training.reporting import report_again

    console = terminal()
    result = report_again(run, data=data, device=device, console=console)
    if result.evaluation is not None and result.analysis is not None:
        console.print(detailed_table(result.evaluation, result.analysis))
    if result.segments is not None:
        console.print(result.segments.table())
    console.print(f"Report: {result.folder / 'report.html'}", soft_wrap=True)
