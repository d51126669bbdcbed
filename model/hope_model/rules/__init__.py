"""The φ rules: a new rule is a file and a line here."""

from hope_model.registry import Registry

RULES = Registry(
    "rule",
    {
        "delta": "hope_model.rules.delta:DeltaRule",
        "gated": "hope_model.rules.gated:GatedRule",
    },
)
