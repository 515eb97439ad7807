"""An Optuna study that several processes work on, each of which may die at any time.

A study shall fill a number of *slots*. A trial is an attempt at a slot: where its
process dies or stops, the slot is attempted again with the same parameters. Two
processes that ask at once may create more trials than are wanted; the later trial, by
number, is dropped. So each slot counts once, whichever processes die.

Heartbeats are attributes of the trials that are running. Processes judge them by their
own clocks, as heartbeats that have not changed for a while; clocks of machines need not
agree.
"""

import contextlib
import threading
import time
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxtl.core.errors import UserError
from jaxtl.sweep import optuna_storage

GRACE = 60.0  # seconds without a heartbeat after which a trial counts as dead
MAX_DEATHS = 3  # processes that die in a trial before its slot is given up
# Attributes of trials: number of the slot's first trial, whether the trial was dropped,
# its error, its last heartbeat, how many processes have died in the slot, and whether
# all of its parameters are drawn.
RETRY, SURPLUS, ERROR, HEARTBEAT, DIED = "retry_of", "surplus", "error", "beat", "died"
DRAWN = "drawn"

COMPLETE, PRUNED, FAIL = "COMPLETE", "PRUNED", "FAIL"
RUNNING, WAITING = "RUNNING", "WAITING"


def _slots(trials: Sequence[Any], total: int) -> dict[int, list[Any]]:
    """Groups trials by slot: number of its first trial -> its attempts, by number.

    Args:
      trials: of a study.
      total: number of slots that count, the first ones by number.
    """
    slots: dict[int, list[Any]] = {}
    for trial in sorted(trials, key=lambda t: t.number):
        if not trial.user_attrs.get(SURPLUS):
            root = trial.user_attrs.get(RETRY, trial.number)
            slots.setdefault(root, []).append(trial)
    return {root: slots[root] for root in sorted(slots)[:total]}


def _is_finished(attempts: Sequence[Any]) -> bool:
    """Whether one of a slot's attempts has ended with a value, an error or pruned."""
    return any(
        t.state.name in (COMPLETE, PRUNED) or ERROR in t.user_attrs for t in attempts
    )


def _is_needed(slots: Mapping[int, Sequence[Any]], number: int) -> bool:
    """Whether a trial's slot counts and has no finished or earlier running attempt."""
    for attempts in slots.values():
        if number in [t.number for t in attempts]:
            earlier = [t for t in attempts if t.number < number]
            is_running = any(t.state.name in (RUNNING, WAITING) for t in earlier)
            return not (
                is_running or _is_finished([t for t in attempts if t.number != number])
            )
    return False


def _place(trials: Sequence[Any], root: int) -> int:
    """The place of a slot's first trial among all first trials, from 0.

    Its number counts retries as well, of which there are as many as processes died.
    """
    return sum(t.number < root and RETRY not in t.user_attrs for t in trials)


class SharedStudy:
    """A study as one of its processes sees it.

    As a context, it sends heartbeats for this process's trials from a thread, and at
    its end requeues those that are not finished.

    Args:
      study: an Optuna study.
      grace: seconds without a heartbeat after which other processes' trials count as
        dead.

    Attributes:
      study, grace: as given.
      running: number -> trial, of those that this process runs.
    """

    def __init__(self, study: Any, grace: float = GRACE):
        self.study, self.grace = study, grace
        self.running: dict[int, Any] = {}
        # key -> (last sign of life, when this process first saw it)
        self._signs: dict[Any, tuple[Any, float]] = {}
        self._ended = threading.Event()

    def __enter__(self) -> "SharedStudy":
        self._thread = threading.Thread(target=self._send_heartbeats, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
        # Counted as a death, or a trial with a bug would be retried without an end.
        died = kind is not None and not issubclass(kind, KeyboardInterrupt | UserError)
        with contextlib.suppress(*([Exception] if kind else [])):
            for trial in list(self.running.values()):
                self.requeue(trial, died)

    def _send_heartbeats(self) -> None:
        while not self._ended.wait(self.grace / 6):
            for trial in list(self.running.values()):
                # The storage may be out of reach, or the trial may have just ended.
                with contextlib.suppress(Exception):
                    trial.set_user_attr(HEARTBEAT, time.time())

    @property
    def total(self) -> int:
        """Number of slots wanted."""
        return self.study.user_attrs[optuna_storage.TOTAL]

    def trials(self) -> list[Any]:
        """The study's trials in their current states."""
        return self.study.get_trials(deepcopy=False)

    def counts(self) -> tuple[int, int]:
        """(number of finished slots, number of slots wanted)."""
        total = self.total
        slots = _slots(self.trials(), total)
        return sum(_is_finished(attempts) for attempts in slots.values()), total

    def ask(self, sampler: Callable[[int], Any]) -> Any:
        """Takes a trial for this process; None if none is needed now.

        Args:
          sampler: place of a slot's first trial among all first trials -> the sampler
            that draws its parameters, so that they depend neither on the process that
            asks nor on which processes died before.
        """
        while self._has_room():
            trial = self.study.ask()
            root = trial.user_attrs.get(RETRY, trial.number)
            self.study.sampler = sampler(_place(self.trials(), root))
            if not _is_needed(_slots(self.trials(), self.total), trial.number):
                trial.set_user_attr(SURPLUS, True)
                self._fail(trial.number)
            elif trial.user_attrs.get(DIED, 0) >= MAX_DEATHS:
                self.running[trial.number] = trial
                self.tell(trial, error=f"{MAX_DEATHS} processes that ran it died")
            else:
                self.running[trial.number] = trial
                trial.set_user_attr(HEARTBEAT, time.time())
                return trial
        return None

    def mark_drawn(self, trial: Any) -> None:
        """Notes that all parameters of a trial are drawn, for whoever retries it."""
        trial.set_user_attr(DRAWN, True)

    def _has_room(self) -> bool:
        total = self.total
        slots = _slots(self.trials(), total)
        is_waiting = any(t.state.name == WAITING for a in slots.values() for t in a)
        return is_waiting or len(slots) < total

    def tell(self, trial: Any, value: float | None = None, error: str = "") -> bool:
        """Ends a trial with a value or an error; with neither it was stopped early.

        Returns:
          Whether it counts: it does not if another process took this one for dead.
        """
        module = optuna_storage.optuna()
        states = module.trial.TrialState
        self.running.pop(trial.number, None)
        state = states.COMPLETE if value is not None else states.PRUNED
        try:
            if error:
                # A failed trial is stored as pruned without a value, which samplers
                # rank as the worst; they learn nothing from the state FAIL.
                trial.set_user_attr(ERROR, error)
            self.study.tell(trial, value, state)
        except (ValueError, module.exceptions.UpdateFinishedTrialError):
            return False
        return True

    def drop(self, trial: Any) -> None:
        """Takes a trial out of the count, as if it had not been asked for."""
        self.running.pop(trial.number, None)
        trial.set_user_attr(SURPLUS, True)
        self._fail(trial.number)

    def requeue(self, trial: Any, died: bool = False) -> None:
        """Lets other processes run a trial of this process; `died` counts a death."""
        self.running.pop(trial.number, None)
        if self._fail(trial.number):
            self._enqueue(trial.number, died)

    def requeue_dead(self) -> int:
        """Requeues the trials of processes that died; returns how many there were."""
        count = 0
        for root, attempts in _slots(self.trials(), self.total).items():
            if _is_finished(attempts):
                continue
            for trial in attempts:
                is_running = trial.state.name == RUNNING
                is_foreign = is_running and trial.number not in self.running
                heartbeat = trial.user_attrs.get(HEARTBEAT)
                is_dead = is_foreign and self._is_silent(trial.number, heartbeat)
                if is_dead and self._fail(trial.number):
                    self._enqueue(trial.number, died=True)
                    count += 1
            # A process may die after it fails a trial and before it enqueues the next.
            is_lost = all(t.state.name == FAIL for t in attempts)
            if is_lost and self._is_silent(f"lost {root}", attempts[-1].number):
                self._enqueue(attempts[-1].number, died=True)
                count += 1
        return count

    def _is_silent(self, key: Any, sign: Any) -> bool:
        """Whether a sign of life has not changed for longer than the grace period."""
        clock = time.monotonic()
        last_sign, since = self._signs.get(key, (None, None))
        if since is None or last_sign != sign:
            self._signs[key] = sign, clock
            return False
        return clock - since > self.grace

    def _fail(self, number: int) -> bool:
        """Ends a trial without a value; of several processes that try, one succeeds.

        Returns:
          Whether this process did.
        """
        module = optuna_storage.optuna()
        try:
            self.study.tell(number, state=module.trial.TrialState.FAIL)
        except (ValueError, module.exceptions.UpdateFinishedTrialError):
            return False
        return True

    def _enqueue(self, number: int, died: bool) -> None:
        """Lets a failed trial's slot be attempted again, with its whole setting.

        A setting of which only a part was drawn is drawn anew: the same, as the slot's
        sampler begins from the start.
        """
        [trial] = [t for t in self.trials() if t.number == number]
        attributes = {
            RETRY: trial.user_attrs.get(RETRY, number),
            DIED: trial.user_attrs.get(DIED, 0) + died,
        }
        params = trial.params
        if not trial.user_attrs.get(DRAWN):
            params = trial.system_attrs.get("fixed_params", {})
        self.study.enqueue_trial(params, user_attrs=attributes)
