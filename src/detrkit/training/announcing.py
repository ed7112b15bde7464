"""What a run says before its first step."""

from __future__ import annotations

from rich.console import Console

from detrkit.data.wording import are, counted
from detrkit.prediction.devices import choose_device
from detrkit.training.before_data import mixing_note
from detrkit.training.module import TrainingModule
from detrkit.training.run_folder import RunFolder
from detrkit.training.scaling import scaling_in_words
from detrkit.training.starting import has_own_queries
from detrkit.training.training_options import TrainingOptions


def announce(
    console: Console, options: TrainingOptions, module: TrainingModule, folder: RunFolder, resumed: bool
) -> None:
    """Prints what is trained, for how long and with which learning rates, and what may surprise.

    Args:
        console: where it is printed.
        options: the resolved options.
        module: what is trained.
        folder: of the run.
        resumed: whether the run goes on.
    """
    schedule = module.schedule
    trainable = sum(parameter.numel() for parameter in module.model.parameters() if parameter.requires_grad)
    pieces = f" in {schedule.accumulate} pieces of {schedule.piece_size}" if schedule.accumulate != 1 else ""
    if module.processes.count > 1:
        pieces += f", shared by {module.processes.count} processes"
    console.print(
        f"{'Resuming' if resumed else 'Training'} {options.variant} ({trainable / 1e6:.1f} million trainable parameters) on "
        f"{choose_device(options.device)} in {options.precision}: {counted(schedule.epochs, 'epoch')}, {counted(schedule.steps, 'step')}, batches of "
        f"{counted(schedule.batch_size, 'image')}{pieces}, images up to {options.short_side} × {options.long_side}, "
        f"learning rate {options.lr:g} (backbone {options.backbone_lr:g}, {options.schedule}){scaling_in_words(options, module.recipe)}",
    )
    if parts := module.recipe.adamw_parts:
        rate = module.recipe.sgd_factor * (options.lr or 0.0)
        console.print(
            f"The learning rate and the clipping are those of {' and '.join(parts)}, which AdamW trains; SGD trains everything else at {rate:g}, and the backbone at {options.backbone_lr:g}."
        )
    repeated = module.images.note()
    if repeated is not None:
        console.print(repeated)
    if schedule.batch_size < (options.batch_size or 1):
        console.print(
            f"Note: there {are(len(module.data))} only {counted(len(module.data), 'image')}, so batches are smaller than {options.batch_size}."
        )
    if not resumed and not options.settings.get("learn_queries", True) and has_own_queries(options):
        console.print(
            "Note: queries stay as they were drawn, since learn_queries is off and queries_from was not given."
        )
    if note := mixing_note(module.data, schedule.epochs):
        console.print(note)
    console.print(f"Run folder: {folder.path}")
