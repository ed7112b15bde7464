"""What happens at the end of every epoch: evaluate, report, log and save the models."""

from __future__ import annotations

import dataclasses
import json
import time

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from rich.console import Console

from detrkit.cards import ModelCard
from detrkit.checkpoints import save
from detrkit.data import DetectionDataset
from detrkit.evaluation import Evaluation, evaluate
from detrkit.evaluation.runner import with_best_thresholds
from detrkit.files import write_atomically, write_json
from detrkit.training.learning import LearningWindow
from detrkit.training.module import TrainingModule
from detrkit.training.progress import duration
from detrkit.training.run_folder import RunFolder, append_to_log
from detrkit.training.training_options import TrainingOptions

_SAVE_EVERY = 60.0  # seconds between two checkpoints if epochs are shorter than that
_PRINT_EVERY = 10.0  # seconds between two lines on the console if epochs are shorter than that


class EpochEnds(Callback):
    """Evaluates, prints one line, extends the log and saves the best and the last model.

    Args:
        folder: the run's folder.
        validation: what the model is evaluated on; None if the data set has no such split, in which case the lowest loss is best.
        console: where lines are printed.
    """

    def __init__(self, folder: RunFolder, validation: DetectionDataset | None, console: Console) -> None:
        self.folder, self.validation, self.console = folder, validation, console
        self._window = LearningWindow(None)
        self._began = self._saved = self._printed = time.perf_counter()
        self._logged_step = 0

    def on_train_epoch_start(self, *_: object) -> None:
        """Starts the clock."""
        self._window.clear()
        self._began = time.perf_counter()

    def on_train_batch_end(self, _: Trainer, pl_module: TrainingModule, *__: object) -> None:  # type: ignore[override]
        """Adds the step to the epoch's means, and logs every tenth step to TensorBoard."""
        assert pl_module.losses is not None
        self._window.add(pl_module.losses)
        step = pl_module.global_step
        if step % 10 == 0 and step != self._logged_step:  # once per step, not once per piece of its batch
            self._logged_step = step
            losses = {name: value.item() for name, value in pl_module.losses.terms.items()}
            pl_module.logger.log_metrics({"loss": pl_module.losses.total.item(), **losses}, step)  # type: ignore[union-attr]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: TrainingModule) -> None:  # type: ignore[override]
        """Evaluates if it is time to, then writes log, metrics and models."""
        seconds = time.perf_counter() - self._began
        epoch, last = trainer.current_epoch + 1, pl_module.global_step >= pl_module.schedule.steps
        evaluates = self.validation is not None and (last or epoch % pl_module.options.evaluate_every == 0)
        # Epochs of a tiny data set take no time: writing and printing after each would take longer than training.
        saves = evaluates or last or time.perf_counter() - self._saved > _SAVE_EVERY
        row, message = self._summary(trainer, pl_module, epoch, seconds)
        pl_module.model.card = dataclasses.replace(
            pl_module.model.card, metrics={}
        )  # the old metrics belong to other weights
        if evaluates:
            if not self.folder.state.is_file() or time.perf_counter() - self._saved > _SAVE_EVERY:
                self._write(pl_module, row, saves=True)  # an image that cannot be read ends the run here
                self._save_state(trainer)
            message += self._evaluate(pl_module, row)
        if not last:
            steps = pl_module.schedule.steps - pl_module.global_step
            message += f"; about {duration(seconds * steps / max(1, self._steps(pl_module)))} left"
        self._write(pl_module, row, saves=saves)
        pl_module.logger.log_metrics({f"epoch/{name}": value for name, value in row.items()}, pl_module.global_step)  # type: ignore[union-attr]
        if saves:
            self._save_state(trainer)
        if saves or time.perf_counter() - self._printed > _PRINT_EVERY:
            self.console.print(message)
            self._printed = time.perf_counter()

    def _save_state(self, trainer: Trainer) -> None:
        # A temporary file is renamed at the end, so that a crash leaves the previous checkpoint in place.
        write_atomically(self.folder.state, trainer.save_checkpoint)
        self._saved = time.perf_counter()

    def _summary(
        self, trainer: Trainer, module: TrainingModule, epoch: int, seconds: float
    ) -> tuple[dict[str, float], str]:
        """The epoch as a row of the log and as a line for the console."""
        learning = self._window.learning()
        row = {"epoch": float(epoch), "step": float(module.global_step), **learning.row()}
        row["lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        row["seconds"] = seconds
        row["images_per_second"] = len(self._window) * module.schedule.piece_size / seconds
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
        if evaluation.repeated_share is not None:
            row["repeated_share"] = evaluation.repeated_share
        module.model.card = _with_figures(module.model.card, self.validation, evaluation)
        best = (self._best() or {}).get("AP", -1.0)
        ap, ap50 = row.get("AP", 0.0), row.get("AP50", 0.0)
        repeats = ""
        if evaluation.suppression is not None and evaluation.suppression.helps:
            repeats = f"; {evaluation.repeated_share:.0%} of detections repeat a better one"
        return f"; AP {ap:.3f}, AP50 {ap50:.3f}{repeats}" + (f" (best AP so far {best:.3f})" if best > ap else "")

    def _best(self) -> dict[str, float] | None:
        """The log row of the epoch that the folder's best model comes from."""
        if not self.folder.best.is_file() or not self.folder.metrics.is_file():
            return None
        best: dict[str, float] | None = json.loads(self.folder.metrics.read_text(encoding="utf-8"))["best"]
        return best

    def _write(self, module: TrainingModule, row: dict[str, float], *, saves: bool) -> None:
        """Writes log and metrics; with `saves` also the last model, and the best one if this is the best so far."""
        append_to_log(self.folder.log, row)
        if saves:
            save(module.model, self.folder.last)
        best = self._best()
        if saves and self._is_better(row, best):
            save(module.model, self.folder.best)
            best = row
        write_json(self.folder.metrics, {"best": best, "last": row})

    def _is_better(self, row: dict[str, float], best: dict[str, float] | None) -> bool:
        """Whether an epoch beats the best one so far: by AP, or by loss without a validation split."""
        metric, sign = ("loss", -1.0) if self.validation is None else ("AP", 1.0)
        if metric not in row:
            return False
        # If the validation split was added during the run, the best epoch so far was chosen by its loss and has no AP: any AP beats it.
        return best is None or metric not in best or sign * row[metric] > sign * best[metric]


def _with_figures(card: ModelCard, validation: DetectionDataset, evaluation: Evaluation) -> ModelCard:
    figures = {name: value for name, value in evaluation.figures.items() if value is not None}
    return dataclasses.replace(with_best_thresholds(card, validation, evaluation), metrics=figures)


def evaluation_batch(options: TrainingOptions) -> int:
    """Number of images that are evaluated together: one, unless they are small."""
    return 8 if (options.short_side or 800) * (options.long_side or 1333) < 512 * 512 else 1
