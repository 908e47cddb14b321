"""A run's side of a search: it reports its score after every epoch and ends when Optuna's pruner says so."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from ptuning.errors import ConfigError, Pruned
from ptuning.training.module import GlueClassifier

_SEPARATOR = "#"


def open_storage(journal: Path) -> Any:
    """Return Optuna's storage in a file, which several processes and machines may share."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(str(journal)))


def name_trial(journal: Path, number: int) -> str:
    """Return what ``trial=`` takes for a trial of a study."""
    return f"{journal}{_SEPARATOR}{number}"


class Pruning(pl.Callback):
    """Reports the scores of a run to the trial that it is, and ends the run if it is pruned.

    Parameters
    ----------
    trial
        As :func:`name_trial` writes it.

    Raises
    ------
    ConfigError
        If there is no such trial; that its number is in the study is looked up when training begins.
    """

    def __init__(self, trial: str) -> None:
        self._named = trial
        journal, _, number = trial.rpartition(_SEPARATOR)
        if not number.isdigit() or not Path(journal).is_file():
            raise self._refusal()
        self._journal, self._number = Path(journal), int(number)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Open the study of the trial."""
        import optuna
        from hydra.utils import instantiate

        if stage != "fit":
            return
        storage = open_storage(self._journal)
        (name,) = optuna.get_all_study_names(storage)
        study = optuna.load_study(study_name=name, storage=storage)
        study.pruner = instantiate(study.user_attrs["pruner"])
        found = [one._trial_id for one in study.get_trials(deepcopy=False) if one.number == self._number]
        if not found:
            raise self._refusal()
        self.trial = optuna.trial.Trial(study, found[0])

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report the epoch's score; raise :class:`Pruned` if the trial should end here."""
        assert isinstance(pl_module, GlueClassifier)
        epoch = trainer.current_epoch + 1
        found = pl_module.val_metrics
        if not found:  # trainer.check_val_every_n_epoch: nothing was evaluated yet
            return
        self.trial.report(found.get("holdout_score", found["score"]), epoch)  # what chooses the best epoch
        if epoch < (trainer.max_epochs or 0) and self.trial.should_prune():
            raise Pruned(f"Stopped after epoch {epoch}: its score is behind those of earlier trials.")

    def _refusal(self) -> ConfigError:
        return ConfigError(f"trial={self._named} names no trial: it is set by hydra/sweeper=optuna, leave it out.")
