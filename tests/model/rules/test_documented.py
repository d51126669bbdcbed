"""``model/RULES.md`` has every rule with its options and their defaults."""

from __future__ import annotations

import re
from pathlib import Path

from hope_model.rules import RULES

TABLE = Path(__file__).parents[3] / "model" / "RULES.md"


def test_every_rule_and_option_is_in_the_table() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| (?:E[\d, E-]+) \| (.*)\|$", TABLE.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert [name for name, _ in rows] == list(RULES)
    for name, options in rows:
        documented = dict(re.findall(r"`(\w+)` \((\w+)\)", options))
        shown = {True: "on", False: "off"}
        expected = {
            option: shown[own.default] if isinstance(own.default, bool) else str(own.default)
            for option, own in RULES[name].OPTIONS.items()
        }
        assert documented == expected, name
