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

import attrs
from filelock import FileLock

from mpcc.core.config import Layer, RunConfig
from mpcc.core.errors import InvalidInput, OutOfResources, TrainingDiverged
from mpcc.core.registry import Registry
from mpcc.core.studies.sweep.axes import Axis, folder_name, points
from mpcc.core.studies.sweep.one_run import LOOK, carried_out, layers_of, stored
from mpcc.core.studies.sweep.record import FAILED, FINISHED, RUNNING, WAITING, SweepRun

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial

__all__ = ["Sweep", "own_storage"]

logger = logging.getLogger(__name__)

# Seconds between two signs of life of a worker, and after the last one until its run is put back; a run whose workers
# have died more often than this is kept as failed.
HEARTBEAT, GRACE, MOST_DEATHS = 10, 60, 3
# Seconds that a database may be busy.
PATIENCE = 60
KNOWN = (TrainingDiverged, InvalidInput, OutOfResources)
DIED = "its worker has died"
# Letters that the address of a SQLite file cannot hold.
UNFIT = "?{}"


def own_storage(folder: Path) -> str:
    """Return the address of the storage in a folder.

    Raises:
        InvalidInput: If the folder has a name that an address cannot hold.
    """
    path = str(folder.absolute() / "sweep.db")
    if any(letter in path for letter in UNFIT):
        raise InvalidInput(
            f"{folder}: the SQLite file of a sweep cannot lie in a folder with one of {' '.join(UNFIT)} in its path: "
            "expected another --out, or --storage"
        )
    return f"sqlite:///{path}"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let Optuna log nothing to standard error, nor warn that its heartbeat is experimental."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
        yield


def shown(address: str) -> str:
    """Return an address without its password."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(address).render_as_string(hide_password=True)
    except (ArgumentError, ValueError):
        return "its address"


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

        self.name = name
        # SQLite locks no rows: without this, two workers could take one run.
        self._turn = (
            FileLock(f"{address.removeprefix('sqlite:///')}.lock") if address.startswith("sqlite:///") else None
        )
        self._storage: optuna.storages.RDBStorage | None = None
        with quiet(), contextlib.ExitStack() as undone:
            undone.callback(self.close)
            try:
                # A busy file or a lost connection would end the heartbeat, and a living worker would count as dead.
                settings = {"connect_args": {"timeout": PATIENCE}} if address.startswith("sqlite") else {}
                retried = optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=MOST_DEATHS)
                storage = self._storage = optuna.storages.RDBStorage(
                    address,
                    engine_kwargs={"pool_pre_ping": True, **settings},
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
            except ImportError as error:
                raise InvalidInput(
                    f"--storage {shown(address)}: the driver of this database is not installed: expected {error.name}"
                ) from error
            except (SQLAlchemyError, ValueError, RuntimeError) as error:
                raise InvalidInput(
                    f"--storage {shown(address)}: the storage of the sweep cannot be used "
                    f"({type(error).__name__}): expected an address such as "
                    "postgresql+psycopg2://user:password@host/database"
                ) from error
            if not new and not self.study.user_attrs.get("complete"):
                raise InvalidInput(f"--study {name}: this study is not a sweep of mpcc, or it is still being made")
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
        """Let all runs wait; if that fails, the study is gone.

        Arguments:
            axes: The grid.
            runs: Its points, each with the configuration of its run.
        """
        import optuna

        assert self._storage is not None
        try:
            self.study.set_user_attr("axes", [[axis.name, list(axis.values)] for axis in axes])
            for point, config in runs:
                self._enqueue({"point": dict(point), **stored(config)})
            self.study.set_user_attr("complete", True)
        except BaseException:
            optuna.delete_study(study_name=self.name, storage=self._storage)
            raise

    def _enqueue(self, told: Mapping[str, Any]) -> None:
        """Let one run wait, unless it does already.

        Arguments:
            told: Its point, and its configuration as `stored` returns it.
        """
        from optuna.trial import TrialState

        if any(trial.user_attrs.get("point") == told["point"] for trial in self._trials(TrialState.WAITING)):
            return
        attributes = {name: told[name] for name in ("point", "config", "free")}
        self.study.enqueue_trial(dict(told["point"]), user_attrs=attributes)

    @property
    def axes(self) -> list[Axis]:
        """The grid."""
        return [Axis(name, tuple(values)) for name, values in self.study.user_attrs["axes"]]

    @property
    def configs(self) -> list[Layer]:
        """The configurations of all runs, once each."""
        told = {
            trial.user_attrs["config"]: trial.user_attrs for trial in self._trials() if "config" in trial.user_attrs
        }
        return [layers_of(each)[-1] for each in told.values()]

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
                error=(told.get("error") or DIED) if trial.state == TrialState.FAIL else None,
                status=int(told.get("status", 0)),
            )
        order = {tuple(point.values()): place for place, point in enumerate(points(axes))}
        return [found[key] for key in sorted(found, key=lambda key: order.get(key, len(order)))]

    def retry(self) -> int:
        """Let all failed runs wait once more; return their number."""
        failed = [dict(run.point) for run in self.runs() if run.state == FAILED]
        told = {json.dumps(trial.user_attrs["point"]): trial.user_attrs for trial in self._trials() if trial.user_attrs}
        for point in failed:
            self._enqueue(told[json.dumps(point)])
        return len(failed)

    def work(self, registry: Registry, folder: Path, own: Layer) -> None:
        """Carry out waiting runs until there are none, and wait for those of other workers.

        Arguments:
            registry: The plugins.
            folder: Gets the run folders.
            own: Settings of this machine, such as its device and its data root.

        Raises:
            Stopped: If the user has stopped a run in training; it waits again.
            KeyboardInterrupt: If the user has stopped it before training; it waits again.
        """
        from optuna.trial import TrialState

        told = False
        while True:
            if self._trials(TrialState.WAITING):
                self._carry_out_one(registry, folder, own)
            elif self._trials(TrialState.RUNNING):
                if not told:
                    logger.info("waiting for the runs of other workers; those of workers that have died are put back")
                told = True
                time.sleep(LOOK)
                with quiet():
                    self._put_back()
            else:
                return

    def _carry_out_one(self, registry: Registry, folder: Path, own: Layer) -> None:
        """Carry out one waiting run; see `work`."""
        from optuna.trial import TrialState

        taken = Taken()
        if self._turn is not None:
            self._turn.acquire()
        try:
            with quiet():
                self.study.optimize(self._objective(registry, folder, own, taken), n_trials=1, catch=KNOWN)
        except Exception:
            # While this process was held up, its run was put back. Whoever has it now finds the results in its folder.
            state = None if taken.number is None else self.study.get_trials(deepcopy=False)[taken.number].state
            if state in (None, TrialState.RUNNING) or taken.failed:
                raise
            logger.warning("this run was put back, because its worker gave no sign of life for %d seconds", GRACE)
        finally:
            self._taken()
        if taken.stop is not None:
            self._enqueue(taken.told)
            raise taken.stop

    def _taken(self) -> None:
        """Let the next worker take a run."""
        if self._turn is not None and self._turn.is_locked:
            self._turn.release()

    def _put_back(self) -> None:
        """Let the runs of workers that have died wait again."""
        import datetime

        import optuna
        from optuna.trial import TrialState

        assert self._storage is not None
        optuna.storages.fail_stale_trials(self.study)
        # A worker that died before its first sign of life is not among them.
        long_ago = datetime.datetime.now() - datetime.timedelta(seconds=10 * GRACE)
        study = self._storage.get_study_id_from_name(self.name)
        for trial in self._trials(TrialState.RUNNING):
            if "host" not in trial.user_attrs and trial.datetime_start is not None and trial.datetime_start < long_ago:
                number = self._storage.get_trial_id_from_study_id_trial_number(study, trial.number)
                if self._storage.set_trial_state_values(number, TrialState.FAIL) and "point" in trial.user_attrs:
                    self._enqueue(trial.user_attrs)

    def _objective(self, registry: Registry, folder: Path, own: Layer, taken: Taken) -> Callable[[Trial], float]:
        """Return the function that carries out one trial.

        Arguments:
            registry: The plugins.
            folder: Gets the run folders.
            own: Settings of this machine.
            taken: Learns what became of the trial.
        """
        import optuna

        from mpcc.core.run.execution import Stopped

        def objective(trial: Trial) -> float:
            self._taken()
            told = trial.user_attrs
            if "point" not in told:
                raise optuna.TrialPruned("another worker has taken the last run")
            taken.number, taken.told = trial.number, told
            for axis in self.axes:
                trial.suggest_categorical(axis.name, axis.values)
            path = folder / folder_name(told["point"])
            trial.set_user_attr("host", socket.gethostname())
            trial.set_user_attr("folder", str(path.absolute()))
            logger.info("%s", ", ".join(f"{name} {value}" for name, value in told["point"].items()))
            try:
                results = carried_out(registry, path, told, own, folder)
            except (Stopped, KeyboardInterrupt) as stop:
                taken.stop = stop
                raise optuna.TrialPruned("stopped") from stop
            except KNOWN as error:
                logger.warning("failed: %s", error)
                trial.set_user_attr("error", " ".join(str(error).split()))
                trial.set_user_attr("status", error.status)
                raise
            except Exception as error:
                taken.failed = True
                trial.set_user_attr("error", f"{type(error).__name__}: {' '.join(str(error).split())}")
                raise
            scores = {name: float(value) for name, value in results["metrics"].items()}
            trial.set_user_attr("scores", scores)
            trial.set_user_attr("seconds", float(results["seconds"]))
            # Optuna wants one number; nothing is chosen by it.
            return scores.get("kept_information", 0.0)

        return objective


@attrs.define
class Taken:
    """A trial that this process has taken.

    Attributes:
        number: Its number, or None if there was none left.
        told: What the storage says about it.
        stop: The stop that the user has asked for.
        failed: Whether something failed that is no known failure of a run.
    """

    number: int | None = None
    told: Mapping[str, Any] = attrs.field(factory=dict)
    stop: BaseException | None = None
    failed: bool = False
