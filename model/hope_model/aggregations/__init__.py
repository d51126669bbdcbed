"""How the levels of a CMS combine: a new aggregation is a file and a line here."""

from hope_model.registry import Registry

AGGREGATIONS = Registry(
    "aggregation",
    {
        "attention": "hope_model.aggregations.attention:Attention",
        "chain": "hope_model.aggregations.chain:Chain",
        "concat": "hope_model.aggregations.concat:Concat",
        "gated_sum": "hope_model.aggregations.gated_sum:GatedSum",
    },
)
