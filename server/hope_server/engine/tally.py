"""Adds up what the states of all sessions counted, for the observer. No torch."""

from hope_model.state import StateSpec
from hope_server.engine.observer import EngineObserver
from hope_server.engine.request import LevelStatus
from hope_server.engine.runner import Counts


class LevelTally:
    """Sums of counter differences per learning level, until they are reported."""

    def __init__(self, spec: StateSpec) -> None:
        self._levels = [level.name for level in spec.learning_levels]
        self._tokens = 0
        self._writes = [0] * len(self._levels)
        self._refused = [0] * len(self._levels)

    def add(self, before: Counts, after: Counts) -> None:
        """A session went from ``before`` to ``after``."""
        self._tokens += after.position - before.position
        for index in range(len(self._levels)):
            self._writes[index] += after.writes[index] - before.writes[index]
            self._refused[index] += after.refused[index] - before.refused[index]

    def report(self, observer: EngineObserver) -> None:
        """Hand over the sums.

        A block pass replaces the preview and may count fewer writes (or refusals) than the preview did; such
        a debt stays here until later events have paid it, so that what is reported only grows and ends up
        exact.
        """
        if self._tokens == 0:
            return
        for index, level in enumerate(self._levels):
            writes, refused = max(0, self._writes[index]), max(0, self._refused[index])
            self._writes[index] -= writes
            self._refused[index] -= refused
            observer.on_level_writes(level, tokens=self._tokens, writes=writes, refused=refused)
        self._tokens = 0


def level_writes(spec: StateSpec, before: Counts, after: Counts) -> dict[str, int]:
    """Writes of each learning level between two counts; none where a block pass took back a preview's."""
    pairs = zip(before.writes, after.writes, strict=True)
    return {
        level.name: max(0, new - old) for level, (old, new) in zip(spec.learning_levels, pairs, strict=True)
    }


def level_statuses(spec: StateSpec, counts: Counts, drift: dict[str, float]) -> list[LevelStatus]:
    """One session's levels, in the order of the spec, as its state itself has counted."""
    learning = {level.name: index for index, level in enumerate(spec.learning_levels)}
    return [
        LevelStatus(
            name=level.name,
            period=level.period,
            tokens=counts.position,
            writes=counts.writes[learning[level.name]] if level.name in learning else 0,
            refused=counts.refused[learning[level.name]] if level.name in learning else 0,
            drift_ratio=drift.get(level.name, 0.0),
            bytes=spec.level_bytes(level.name),
        )
        for level in spec.levels
    ]
