"""Optimizers as memories: a new write rule is a file and a line here."""

from hope_model.registry import Registry

WRITE_RULES = Registry(
    "write rule",
    {
        "sgd": "hope_model.write_rules.sgd:SGD",
        "momentum": "hope_model.write_rules.momentum:Momentum",
        "adam": "hope_model.write_rules.adam:Adam",
    },
)
