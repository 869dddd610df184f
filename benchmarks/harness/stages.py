"""The stages that a run is made of: what a stopped run has finished is not computed again.

A stage is what an experiment computes in one go, and names: a method from a seed, a network at a
batch size. Its records are written when all of it is done. Stages are where a run may stop, when
its time is spent, and where a later one goes on::

    yield from context.stages.of(f"{method}, seed {seed}", lambda: train(method, seed))
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from common.results.records import Record


class TimeBudgetSpentError(RuntimeError):
    """There is no time left to begin another stage; what is finished stands."""


class Stages:
    """What an earlier run finished, and how long this one may take."""

    computes_all = True
    """Whether every stage is computed that is not there already; else records may be missing."""

    def __init__(
        self, finished: Mapping[str, Sequence[Record]] | None = None, *,
        seconds: float | None = None,
        on_finished: Callable[[str, int], None] | None = None,
        agreed: Callable[[bool], bool] = bool,
    ):  # fmt: skip
        """Starts the clock.

        Args:
            finished: the stages whose records are there already, by name; None for none. Of several
                processes only the one that reads the folder knows what these records are.
            seconds: after which no further stage is begun; None for no limit. The first stage is
                always begun, so that run after run comes to an end however little time each has.
            on_finished: called with a stage's name and its number of records at its end.
            agreed: from whether time is spent here, whether to stop: where several processes run
                the same stages, all of them must.
        """
        self._finished = frozenset(finished or ())
        self.known: list[Record] = [r for records in (finished or {}).values() for r in records]
        """What is computed: by an earlier run that this one goes on with, and by this one."""
        self._seconds, self._started = seconds, time.monotonic()
        self._on_finished, self._agreed = on_finished, agreed
        self._begun = 0

    def of(self, name: str, make: Callable[[], Iterable[Record]]) -> Iterator[Record]:
        """The records of one stage; none if they are there already.

        Its name is like that of no other stage of the run, and the same in every run; all records
        are computed before the first is yielded.

        Raises:
            TimeBudgetSpentError: if it would have to be computed and time is spent.
        """
        if name in self._finished:
            return
        spent = time.monotonic() - self._started
        budget = self._seconds
        if budget is not None and self._begun and self._agreed(spent >= budget):
            raise TimeBudgetSpentError(
                f"{spent / 60:.1f} minutes are spent of {budget / 60:.1f}; stopped before {name!r}."
            )
        self._begun += 1
        records = list(make())
        self.known += records
        yield from records
        if self._on_finished is not None:
            self._on_finished(name, len(records))
