"""The φ rules: a new rule is a file and a line here."""

from hope_model.registry import Registry

RULES = Registry(
    "rule",
    {
        "delta": "hope_model.rules.delta:DeltaRule",
        "gated": "hope_model.rules.gated:GatedRule",
        "hope": "hope_model.rules.hope:HopeRule",
        "retnet": "hope_model.rules.retnet:RetNetRule",
        "deltanet": "hope_model.rules.deltanet:DeltaNetRule",
        "gated_deltanet": "hope_model.rules.gated_deltanet:GatedDeltaNetRule",
        "comba": "hope_model.rules.comba:CombaRule",
        "rwkv7": "hope_model.rules.rwkv7:Rwkv7Rule",
        "ttt": "hope_model.rules.ttt:TttRule",
        "miras": "hope_model.rules.miras:MirasRule",
        "dla": "hope_model.rules.dla:DlaRule",
        "titans": "hope_model.rules.titans:TitansRule",
        "transformer": "hope_model.rules.transformer:TransformerRule",
        "samba": "hope_model.rules.samba:SambaRule",
    },
)
