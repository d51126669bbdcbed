"""What a run counts, and the table that it prints."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import quantiles

SHOWN_NOTES = 30
"""The table ends with the last so many; the JSON has all."""


@dataclass
class Ledger:
    """Counts of one run. Everything but faults and acknowledged tokens is to stay at zero."""

    faults: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0
    lost: int = 0
    learned_twice: int = 0
    hash_mismatches: int = 0
    foreign_bytes: int = 0
    unexpected: int = 0
    work: Counter[str] = field(default_factory=Counter)
    """What clients did, by kind."""
    notes: list[str] = field(default_factory=list)
    """One line a violation, and what else the reader of the table should know."""
    recoveries_s: list[float] = field(default_factory=list)

    @property
    def violations(self) -> int:
        return self.lost + self.learned_twice + self.hash_mismatches + self.foreign_bytes + self.unexpected

    def recovery_s(self, percent: int) -> float:
        """A percentile of the times from a fault to a hit session's next acknowledged token."""
        if len(self.recoveries_s) < 2:
            return sum(self.recoveries_s)
        return quantiles(self.recoveries_s, n=100, method="inclusive")[percent - 1]

    def rows(self) -> Iterable[tuple[str, str]]:
        """The table: fault kinds first."""
        for kind, count in sorted(self.faults.items()):
            yield f"fault: {kind}", f"{count:,}"
        yield "faults in all", f"{self.faults.total():,}"
        for kind, count in sorted(self.work.items()):
            yield f"work: {kind}", f"{count:,}"
        yield "acknowledged tokens", f"{self.acknowledged:,}"
        yield "lost", f"{self.lost:,}"
        yield "learned twice", f"{self.learned_twice:,}"
        yield "hash mismatches", f"{self.hash_mismatches:,}"
        yield "cross-tenant bytes", f"{self.foreign_bytes:,}"
        yield "unexpected answers", f"{self.unexpected:,}"
        yield "recovery p50 / p99", f"{self.recovery_s(50):.2f} / {self.recovery_s(99):.2f} s"

    def table(self) -> str:
        rows = list(self.rows())
        width = max(len(name) for name, _ in rows)
        lines = [f"{name:{width}}  {value:>14}" for name, value in rows]
        shown = [f"! {note}" for note in self.notes[-SHOWN_NOTES:]]
        return "\n".join([*lines, *shown])

    def to_json(self) -> str:
        return json.dumps(
            {
                "faults": dict(sorted(self.faults.items())),
                "faults_total": self.faults.total(),
                "work": dict(sorted(self.work.items())),
                "acknowledged_tokens": self.acknowledged,
                "lost": self.lost,
                "learned_twice": self.learned_twice,
                "hash_mismatches": self.hash_mismatches,
                "cross_tenant_bytes": self.foreign_bytes,
                "unexpected_answers": self.unexpected,
                "recovery_p50_s": round(self.recovery_s(50), 3),
                "recovery_p99_s": round(self.recovery_s(99), 3),
                "notes": self.notes,
            },
            indent=2,
        )


@dataclass
class Recovery:
    """Since when one session waits for its next token, for each fault that hit it."""

    ledger: Ledger
    worker: int | None = None
    """The one that its turn is at, while there is one."""
    since: list[float] = field(default_factory=list)

    def hit(self) -> None:
        self.since.append(time.monotonic())

    def served(self) -> None:
        """A token was acknowledged."""
        now = time.monotonic()
        self.ledger.recoveries_s += [now - begun for begun in self.since]
        self.since.clear()
