"""A sweep as an Optuna study: every run is a trial that waits until some worker takes it.

Optuna's storage is what the workers share: a SQLite file, or a database server for several machines. It hands each
waiting trial to one worker. A worker's heartbeat tells that it is alive; the trial of a worker that has died is put
back, and the next worker goes on from the last checkpoint if it can read the run folder.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpcc.core.config import Layer, RunConfig, read_config, resolve
from mpcc.core.config.layers import config_layer
from mpcc.core.errors import InvalidInput, OutOfResources, TrainingDiverged
from mpcc.core.registry import Registry
from mpcc.core.storage.run_folder import RunFolder
from mpcc.core.studies.sweep.axes import Axis, folder_name, points
from mpcc.core.studies.sweep.record import FAILED, FINISHED, RUNNING, WAITING, SweepRun
from mpcc.core.system.output_streams import quoted
from mpcc.core.system.toml_file import parse_toml

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial

__all__ = ["Sweep", "own_storage"]

logger = logging.getLogger(__name__)

# Seconds between two signs of life of a worker, and after the last one until its trial is put back.
HEARTBEAT, GRACE = 10, 30
# Seconds between two looks at runs of other workers.
LOOK = 2.0
KNOWN = (TrainingDiverged, InvalidInput, OutOfResources)


def own_storage(folder: Path) -> str:
    """Return the address of the storage in a folder."""
    return f"sqlite:///{folder.absolute() / 'sweep.db'}"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let Optuna neither log to standard error nor warn that its heartbeat is experimental."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
        yield


class Sweep:
    """A sweep in a storage.

    Arguments:
        address: Of the storage, as SQLAlchemy writes it.
        name: Of the study.
        new: Whether the study is made; otherwise it must be there.

    Raises:
        InvalidInput: If Optuna is missing, the storage cannot be reached, or the study is there or not.
    """

    def __init__(self, address: str, name: str, *, new: bool) -> None:
        try:
            import optuna
        except ImportError as error:
            raise InvalidInput('mpcc sweep needs Optuna, which is not installed: pip install "mpcc[sweep]"') from error
        from optuna.exceptions import DuplicatedStudyError
        from sqlalchemy.exc import SQLAlchemyError

        self._storage: optuna.storages.RDBStorage | None = None
        with quiet(), contextlib.ExitStack() as undone:
            undone.callback(self.close)
            try:
                retried = optuna.storages.RetryHeartbeatStaleTrialCallback()
                storage = self._storage = optuna.storages.RDBStorage(
                    address,
                    heartbeat_interval=HEARTBEAT,
                    grace_period=GRACE,
                    heartbeat_stale_trial_callback=retried,
                )
                if new:
                    self.study = optuna.create_study(storage=storage, study_name=name, direction="maximize")
                else:
                    self.study = optuna.load_study(storage=storage, study_name=name)
            except DuplicatedStudyError as error:
                raise InvalidInput(
                    f"--study {name}: the storage has a study of this name: join it with --join, or choose another name"
                ) from error
            except KeyError as error:
                raise InvalidInput(f"--study {name}: the storage has no study of this name") from error
            except (SQLAlchemyError, ImportError, ValueError) as error:
                # The address may hold a password.
                raise InvalidInput(f"the storage of the sweep cannot be used: {type(error).__name__}") from error
            undone.pop_all()

    def __enter__(self) -> Sweep:
        """Return the sweep; it is closed after the ``with`` block."""
        return self

    def __exit__(self, *failure: object) -> None:
        """Close the sweep."""
        self.close()

    def close(self) -> None:
        """Close the connections to the storage."""
        if self._storage is not None:
            self._storage.remove_session()
            self._storage.engine.dispose()

    def fill(self, axes: Sequence[Axis], runs: Sequence[tuple[Mapping[str, str], RunConfig]]) -> None:
        """Let all runs wait.

        Arguments:
            axes: The grid.
            runs: Its points, each with the configuration of its run.
        """
        self.study.set_user_attr("axes", [[axis.name, list(axis.values)] for axis in axes])
        for point, config in runs:
            self._enqueue(point, config.to_toml())

    def _enqueue(self, point: Mapping[str, str], config: str) -> None:
        """Let one run wait."""
        self.study.enqueue_trial(dict(point), user_attrs={"point": dict(point), "config": config})

    @property
    def axes(self) -> list[Axis]:
        """The grid."""
        return [Axis(name, tuple(values)) for name, values in self.study.user_attrs["axes"]]

    @property
    def configs(self) -> list[Layer]:
        """The configurations of all runs, once each."""
        texts = dict.fromkeys(trial.user_attrs["config"] for trial in self._trials() if "config" in trial.user_attrs)
        return [config_layer(parse_toml(text.encode(), "a run of the sweep"), "the sweep") for text in texts]

    def _trials(self, *states: Any) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states or None)

    def runs(self) -> list[SweepRun]:
        """Return what came of each run, in the order of the grid; of tries of one run the last counts."""
        from optuna.trial import TrialState

        states = {
            TrialState.WAITING: WAITING,
            TrialState.RUNNING: RUNNING,
            TrialState.COMPLETE: FINISHED,
            TrialState.FAIL: FAILED,
        }
        found: dict[tuple[str, ...], SweepRun] = {}
        axes = self.axes
        for trial in self._trials():
            point = trial.user_attrs.get("point")
            # Two workers that reach for the last waiting run make a trial that is none; a stopped run waits again.
            if point is None or trial.state not in states:
                continue
            told = trial.user_attrs
            found[tuple(point[axis.name] for axis in axes)] = SweepRun(
                point={axis.name: point[axis.name] for axis in axes},
                state=states[trial.state],
                scores=told.get("scores", {}),
                seconds=told.get("seconds"),
                folder=told.get("folder", ""),
                host=told.get("host", ""),
                error=(told.get("error") or "its worker has died") if trial.state == TrialState.FAIL else None,
                status=int(told.get("status", 0)),
            )
        order = {tuple(point.values()): place for place, point in enumerate(points(axes))}
        return [found[key] for key in sorted(found, key=lambda key: order.get(key, len(order)))]

    def retry(self) -> int:
        """Let all failed runs wait once more; return their number."""
        failed = [run for run in self.runs() if run.state == FAILED]
        texts = {
            json.dumps(trial.user_attrs["point"]): trial.user_attrs["config"]
            for trial in self._trials()
            if "point" in trial.user_attrs
        }
        for run in failed:
            self._enqueue(run.point, texts[json.dumps(dict(run.point))])
        return len(failed)

    def work(self, registry: Registry, folder: Path, own: Layer) -> None:
        """Carry out waiting runs until there are none, and wait for those of other workers.

        Arguments:
            registry: The plugins.
            folder: Gets the run folders.
            own: Settings of this machine, such as its device and its data root.

        Raises:
            Stopped: If the user has stopped a run; it waits again.
        """
        from optuna.trial import TrialState

        from mpcc.core.run.execution import Stopped

        told = False
        while True:
            if self._trials(TrialState.WAITING):
                stopped: list[Stopped] = []
                with quiet():
                    self.study.optimize(self._objective(registry, folder, own, stopped), n_trials=1, catch=KNOWN)
                if stopped:
                    raise stopped[0]
            elif self._trials(TrialState.RUNNING):
                if not told:
                    logger.info("waiting for the runs of other workers; those of workers that have died are put back")
                told = True
                time.sleep(LOOK)
                with quiet():
                    self._put_back()
            else:
                return

    def _put_back(self) -> None:
        """Let the runs of workers that have died wait again."""
        import optuna

        optuna.storages.fail_stale_trials(self.study)

    def _objective(self, registry: Registry, folder: Path, own: Layer, stopped: list[Any]) -> Callable[[Trial], float]:
        """Return the function that carries out one trial.

        Arguments:
            registry: The plugins.
            folder: Gets the run folders.
            own: Settings of this machine.
            stopped: Gets the stop that the user has asked for.
        """
        import optuna

        from mpcc.core.run.execution import Stopped

        def objective(trial: Trial) -> float:
            point = trial.user_attrs.get("point")
            if point is None:
                raise optuna.TrialPruned("another worker has taken the last run")
            for axis in self.axes:
                trial.suggest_categorical(axis.name, axis.values)
            path = folder / folder_name(point)
            trial.set_user_attr("host", socket.gethostname())
            trial.set_user_attr("folder", str(path.absolute()))
            logger.info("%s", ", ".join(f"{name} {value}" for name, value in point.items()))
            try:
                results = carried_out(registry, path, trial.user_attrs["config"], own, folder)
            except Stopped as stop:
                stopped.append(stop)
                self._enqueue(point, trial.user_attrs["config"])
                raise optuna.TrialPruned("stopped") from stop
            except KNOWN as error:
                trial.set_user_attr("error", " ".join(str(error).split()))
                trial.set_user_attr("status", error.status)
                logger.warning("failed: %s", error)
                raise
            scores = {name: float(value) for name, value in results["metrics"].items()}
            trial.set_user_attr("scores", scores)
            trial.set_user_attr("seconds", float(results["seconds"]))
            # Optuna wants one number; nothing is chosen by it.
            return scores.get("kept_information", 0.0)

        return objective


def carried_out(registry: Registry, path: Path, config: str, own: Layer, sweep: Path) -> dict[str, Any]:
    """Carry out one run, or go on with it, and return its results.

    Arguments:
        registry: The plugins.
        path: Its folder.
        config: Its configuration as TOML.
        own: Settings of this machine.
        sweep: The folder of the sweep.
    """
    from mpcc.core.run.whole_run import carry_out

    begun = (path / "config.toml").is_file()
    layer = (
        read_config(path / "config.toml")
        if begun
        else config_layer(parse_toml(config.encode(), "a run of the sweep"), "the sweep")
    )
    made = resolve(registry, [layer, own], "none")
    if begun and (results := finished(path, made.run.iterations)):
        return results
    folder = RunFolder.existing(path) if begun else RunFolder.plan(path, made)
    folder.within, folder.command = sweep, "mpcc sweep"
    return carry_out(registry, made, folder, resumed=begun, bar=False)


def finished(path: Path, iterations: int) -> dict[str, Any]:
    """Return the results of a run that has ended though its worker could not say so; empty if it has not."""
    try:
        results: dict[str, Any] = json.loads((path / "results.json").read_bytes())
        done = results["iterations"] == iterations and (path / "checkpoints" / "last.pt").is_file()
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    if done:
        logger.info("%s has ended already", quoted(path))
    return results if done else {}
