"""What happens at the end of every epoch: evaluate, tell, write down, keep."""

from __future__ import annotations

import dataclasses
import json
import time

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from rich.console import Console

from detrkit.checkpoints import save
from detrkit.data import DetectionDataset
from detrkit.evaluation import Evaluation, evaluate
from detrkit.files import write_atomically, write_json
from detrkit.structures import ModelCard
from detrkit.training.learning import LearningWindow
from detrkit.training.module import TrainingModule
from detrkit.training.options import TrainingOptions
from detrkit.training.progress import duration
from detrkit.training.run_folder import RunFolder, append_to_log

_KEEP_EVERY = 60.0  # seconds between two checkpoints where epochs are shorter than that
_TELL_EVERY = 10.0  # seconds between two lines, likewise


class EpochEnds(Callback):
    """Evaluates, prints one line, extends the log and keeps the best and the last model.

    Args:
        folder: of the run.
        validation: what the model is evaluated on; None where the data set has no such split, then the lowest loss is best.
        console: for the lines.
    """

    def __init__(self, folder: RunFolder, validation: DetectionDataset | None, console: Console) -> None:
        self.folder, self.validation, self.console = folder, validation, console
        self._window = LearningWindow(None)
        self._began = self._kept = self._told = time.perf_counter()
        self._logged = 0

    def on_train_epoch_start(self, *_: object) -> None:
        """Starts the clock."""
        self._window.clear()
        self._began = time.perf_counter()

    def on_train_batch_end(self, _: Trainer, pl_module: TrainingModule, *__: object) -> None:  # type: ignore[override]
        """Takes in one step, and sends every tenth to TensorBoard."""
        assert pl_module.losses is not None
        self._window.add(pl_module.losses)
        step = pl_module.global_step
        if step % 10 == 0 and step != self._logged:  # once a step, not once a piece of its batch
            self._logged = step
            losses = {name: value.item() for name, value in pl_module.losses.terms.items()}
            pl_module.logger.log_metrics({"loss": pl_module.losses.total.item(), **losses}, step)  # type: ignore[union-attr]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: TrainingModule) -> None:  # type: ignore[override]
        """Evaluates where it is time to, then writes everything down."""
        seconds = time.perf_counter() - self._began
        epoch, last = trainer.current_epoch + 1, pl_module.global_step >= pl_module.schedule.steps
        evaluates = last or epoch % pl_module.options.evaluate_every == 0
        # Epochs of a tiny data set take no time: then files and lines would cost more than learning does.
        keeps = (evaluates and self.validation is not None) or last or time.perf_counter() - self._kept > _KEEP_EVERY
        keeps = trainer.strategy.broadcast(keeps)  # processes have clocks of their own
        if trainer.is_global_zero:
            row, line = self._summary(trainer, pl_module, epoch, seconds)
            pl_module.model.card = dataclasses.replace(pl_module.model.card, metrics={})  # those were of other weights
            if self.validation is not None and evaluates:
                line += self._evaluate(pl_module, row)
            if not last:
                steps = pl_module.schedule.steps - pl_module.global_step
                line += f"; about {duration(seconds * steps / max(1, self._steps(pl_module)))} left"
            self._write(pl_module, row, keeps=keeps)
            pl_module.logger.log_metrics({f"epoch/{name}": value for name, value in row.items()}, pl_module.global_step)  # type: ignore[union-attr]
            if keeps or time.perf_counter() - self._told > _TELL_EVERY:
                self.console.print(line)
                self._told = time.perf_counter()
        if keeps:
            trainer.strategy.barrier()
            # All processes take part in this one; the name comes last, so that a crash leaves what was there before.
            write_atomically(self.folder.state, trainer.save_checkpoint)
            self._kept = time.perf_counter()

    def _summary(
        self, trainer: Trainer, module: TrainingModule, epoch: int, seconds: float
    ) -> tuple[dict[str, float], str]:
        """The epoch as a row of the log and as a line for people."""
        learning = self._window.learning()
        row = {"epoch": float(epoch), "step": float(module.global_step), **learning.row()}
        row["lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        row["images_per_second"] = len(self._window) * module.schedule.piece_size * trainer.world_size / seconds
        return row, f"epoch {epoch}/{module.schedule.epochs}: {learning.in_words()}"

    def _steps(self, module: TrainingModule) -> int:
        return len(self._window) // module.schedule.accumulate

    def _evaluate(self, module: TrainingModule, row: dict[str, float]) -> str:
        assert self.validation is not None
        options = module.options
        evaluation = evaluate(
            module.model, self.validation, batch_size=evaluation_batch(options), workers=options.workers or 0
        )
        row |= {name: value for name, value in evaluation.figures.items() if value is not None}
        module.model.card = _with_figures(module, evaluation)
        best = (self._best() or {}).get("AP", -1.0)
        ap, ap50 = row.get("AP", 0.0), row.get("AP50", 0.0)
        return f"; AP {ap:.3f}, AP50 {ap50:.3f}" + (f" (best AP so far {best:.3f})" if best > ap else "")

    def _best(self) -> dict[str, float] | None:
        """The row of the epoch whose model lies in the folder as the best."""
        if not self.folder.best.is_file() or not self.folder.metrics.is_file():
            return None
        best: dict[str, float] | None = json.loads(self.folder.metrics.read_text(encoding="utf-8"))["best"]
        return best

    def _write(self, module: TrainingModule, row: dict[str, float], *, keeps: bool) -> None:
        """Log and figures; the last model where it is to be kept, the best one where this is it."""
        append_to_log(self.folder.log, row)
        if keeps:
            save(module.model, self.folder.last)
        key, sign = ("AP", 1.0) if self.validation is not None else ("loss", -1.0)
        best = self._best()
        if keeps and key in row and (best is None or sign * row[key] > sign * best[key]):
            save(module.model, self.folder.best)
            best = row
        write_json(self.folder.metrics, {"best": best, "last": row})


def _with_figures(module: TrainingModule, evaluation: Evaluation) -> ModelCard:
    card = module.model.card
    figures = {name: value for name, value in evaluation.figures.items() if value is not None}
    threshold = evaluation.best_threshold if evaluation.best_threshold is not None else card.threshold
    return dataclasses.replace(card, metrics=figures, threshold=threshold)


def evaluation_batch(options: TrainingOptions) -> int:
    """Images that are evaluated together: several only where they are small."""
    return 8 if (options.short_side or 800) * (options.long_side or 1333) < 512 * 512 else 1
