"""Every target by its name."""

from __future__ import annotations

from tests.fuzz import asked, checkpoints, stored
from tests.fuzz.target import Target

TARGETS: dict[str, Target] = {
    target.name: target for target in (*stored.TARGETS, *asked.TARGETS, *checkpoints.TARGETS)
}
