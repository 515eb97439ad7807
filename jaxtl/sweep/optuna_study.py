"""Trials that several processes share: an Optuna study, its storage, who is alive.

A study is to hold a number of *slots*, each tried until it is finished. A trial is an
attempt at one: where its process dies or stops, the slot is tried again with the same
parameters. Two processes that ask at once may ask for more than is wanted; the later
trial, by number, gives way. So each slot is counted once, whoever dies when.

Signs of life are attributes of the trials under way, and are judged by the watcher's
own clock: what has not changed for a while. Clocks of machines need not agree.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxtl.core.errors import UserError
from jaxtl.sweep import optuna_storage

GRACE = 60.0  # seconds without a sign of life after which a trial is taken over
DEATHS = 3  # processes that die of a trial before it is given up
# Attributes of trials.
RETRY, SURPLUS, ERROR, BEAT, DIED = "retry_of", "surplus", "error", "beat", "died"

COMPLETE, PRUNED, FAIL = "COMPLETE", "PRUNED", "FAIL"
RUNNING, WAITING = "RUNNING", "WAITING"


def slots(trials: Sequence, total: int | None = None) -> dict[int, list]:
    """Returns the number of a slot's first trial -> its attempts, by number.

    Args:
      trials: of a study.
      total: slots that count, the first by number; None for all.
    """
    found: dict[int, list] = {}
    for trial in sorted(trials, key=lambda t: t.number):
        if not trial.user_attrs.get(SURPLUS):
            root = trial.user_attrs.get(RETRY, trial.number)
            found.setdefault(root, []).append(trial)
    return {root: found[root] for root in sorted(found)[:total]}


def finished(attempts: Sequence) -> bool:
    """Whether one of a slot's attempts came to its end."""
    return any(
        t.state.name in (COMPLETE, PRUNED) or ERROR in t.user_attrs for t in attempts
    )


def needed(found: Mapping[int, Sequence], number: int) -> bool:
    """Whether a trial that was taken is to be run: no other does the same."""
    for attempts in found.values():
        if number in [t.number for t in attempts]:
            others = [t for t in attempts if t.number != number]
            earlier = [t for t in others if t.number < number]
            under_way = any(t.state.name in (RUNNING, WAITING) for t in earlier)
            return not (under_way or finished(others))
    return False


class SharedStudy:
    """A study as one of its processes sees it; a context that gives signs of life.

    Args:
      study: an Optuna study.
      grace: seconds without a sign of life after which others' trials are taken over.
    """

    def __init__(self, study, grace: float = GRACE):
        self.study, self.grace = study, grace
        self.mine: dict[int, Any] = {}
        self._seen: dict[Any, tuple[Any, float]] = {}
        self._ended = threading.Event()

    def __enter__(self) -> "SharedStudy":
        self._thread = threading.Thread(target=self._beats, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind, *_) -> None:
        self._ended.set()
        self._thread.join()
        # A process that fails of a bug must not hand it round for ever.
        died = kind is not None and not issubclass(kind, KeyboardInterrupt | UserError)
        with contextlib.suppress(*([Exception] if kind else [])):
            for trial in list(self.mine.values()):
                self.hand_back(trial, died)

    def _beats(self) -> None:
        while not self._ended.wait(self.grace / 6):
            for trial in list(self.mine.values()):
                # The storage may be away for now, or the trial have just been told.
                with contextlib.suppress(Exception):
                    trial.set_user_attr(BEAT, time.time())

    @property
    def total(self) -> int:
        """Slots wanted."""
        return self.study.user_attrs[optuna_storage.TOTAL]

    def trials(self) -> list:
        """Returns the study's trials as they are now."""
        return self.study.get_trials(deepcopy=False)

    def counts(self) -> tuple[int, int]:
        """Returns (slots that are finished, slots wanted)."""
        total = self.total
        found = slots(self.trials(), total)
        return sum(finished(attempts) for attempts in found.values()), total

    def ask(self, sampler: Callable[[int], Any]):
        """Returns a trial that is this process's alone; None where none is to be had.

        Args:
          sampler: number of a trial -> the sampler that its parameters come from, so
            that they do not depend on who asks.
        """
        while self._room():
            trial = self.study.ask()
            self.study.sampler = sampler(trial.number)
            if not needed(slots(self.trials(), self.total), trial.number):
                trial.set_user_attr(SURPLUS, True)
                self._fail(trial.number)
            elif trial.user_attrs.get(DIED, 0) >= DEATHS:
                self.mine[trial.number] = trial
                self.tell(trial, error=f"{DEATHS} processes that ran it died")
            else:
                self.mine[trial.number] = trial
                trial.set_user_attr(BEAT, time.time())
                return trial
        return None

    def _room(self) -> bool:
        total = self.total
        found = slots(self.trials(), total)
        waiting = any(t.state.name == WAITING for a in found.values() for t in a)
        return waiting or len(found) < total

    def tell(self, trial, value: float | None = None, error: str = "") -> bool:
        """Says what came out: a value, an error, or neither where it was stopped early.

        Returns:
          whether it counts: not if others took this process for dead meanwhile.
        """
        module = optuna_storage.optuna()
        states = module.trial.TrialState
        self.mine.pop(trial.number, None)
        state = states.COMPLETE if value is not None else states.PRUNED
        try:
            if error:
                # As the worst of all to the sampler, which learns nothing from FAIL.
                trial.set_user_attr(ERROR, error)
            self.study.tell(trial, value, state)
        except (ValueError, module.exceptions.UpdateFinishedTrialError):
            return False
        return True

    def discard(self, trial) -> None:
        """Takes a trial out of the count, as if it had not been asked for."""
        self.mine.pop(trial.number, None)
        trial.set_user_attr(SURPLUS, True)
        self._fail(trial.number)

    def hand_back(self, trial, died: bool = False) -> None:
        """Lets others run a trial of this process's."""
        self.mine.pop(trial.number, None)
        [known] = [t for t in self.trials() if t.number == trial.number]
        if self._fail(trial.number):
            self._enqueue(known, died)

    def revive(self) -> int:
        """Lets dead processes' trials be run again; returns how many."""
        count = 0
        for root, attempts in slots(self.trials(), self.total).items():
            if finished(attempts):
                continue
            for trial in attempts:
                theirs = trial.state.name == RUNNING and trial.number not in self.mine
                beat = trial.user_attrs.get(BEAT)
                dead = theirs and self._silent(trial.number, beat)
                if dead and self._fail(trial.number):
                    self._enqueue(trial, died=True)
                    count += 1
            # Its process died between giving it up and asking for another attempt.
            lost = all(t.state.name == FAIL for t in attempts)
            if lost and self._silent(f"lost {root}", attempts[-1].number):
                self._enqueue(attempts[-1], died=True)
                count += 1
        return count

    def _silent(self, key, sign) -> bool:
        now = time.monotonic()
        known = self._seen.get(key)
        if known is None or known[0] != sign:
            self._seen[key] = sign, now
            return False
        return now - known[1] > self.grace

    def _fail(self, number: int) -> bool:
        """Ends a trial without a value; returns whether it was this process that did.

        Of several processes that try, one succeeds.
        """
        module = optuna_storage.optuna()
        try:
            self.study.tell(number, state=module.trial.TrialState.FAIL)
        except (ValueError, module.exceptions.UpdateFinishedTrialError):
            return False
        return True

    def _enqueue(self, trial, died: bool) -> None:
        params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        again = {
            RETRY: trial.user_attrs.get(RETRY, trial.number),
            DIED: trial.user_attrs.get(DIED, 0) + died,
        }
        self.study.enqueue_trial(params, user_attrs=again)
