"""What arXiv 2512.24695 publishes: Table 2 (760M parameters, 30B tokens) and Table 6.

The camera-ready version at NeurIPS prints other figures for Hope.
"""

COLUMNS = ("Wiki ppl", "LMB ppl", "LMB acc", "PIQA", "Hella", "Wino", "ARC-e", "ARC-c", "SIQA", "BoolQ")
TABLE_2 = {
    "transformer": (24.18, 24.27, 37.1, 67.2, 43.8, 53.0, 65.6, 33.4, 39.1, 61.7),
    "samba": (21.07, 22.85, 39.2, 68.9, 47.8, 53.1, 65.8, 34.9, 38.9, 63.1),
    "retnet": (25.77, 24.19, 34.5, 66.8, 41.2, 51.9, 63.6, 32.5, 38.8, 56.2),
    "deltanet": (24.52, 24.38, 36.8, 67.3, 44.5, 51.8, 64.2, 32.7, 39.6, 60.1),
    "rwkv7": (23.75, 23.08, 37.1, 67.3, 47.6, 52.2, 64.7, 34.2, 39.4, 61.9),
    "comba": (22.41, 22.19, 37.5, 66.9, 48.2, 52.4, 65.1, 34.1, 40.1, 62.8),
    "ttt": (24.17, 23.51, 34.7, 67.3, 43.9, 51.0, 64.5, 33.8, 40.2, 59.6),
    "miras": (22.28, 22.31, 38.2, 67.8, 49.3, 53.3, 63.6, 36.1, 40.9, 63.0),
    "dla": (23.12, 22.09, 36.1, 68.0, 47.9, 52.7, 65.8, 34.6, 39.1, 59.6),
    "titans": (20.08, 21.52, 38.1, 69.1, 48.5, 52.7, 66.2, 35.7, 40.3, 62.8),
    "hope": (18.68, 20.07, 38.8, 69.2, 49.1, 53.6, 66.8, 36.1, 41.2, 63.4),
}
"""By run: perplexities, then accuracies in percent. The paper has no Gated DeltaNet."""

TABLE_6_HOPE = (12.24, 58.1)
TABLE_6 = {
    "w/o DGD": (13.41, 56.5),
    "w/o momentum": (13.58, 56.9),
    "w/o weight decay": (13.71, 57.2),
    "w/o CMS": (13.04, 57.3),
    "w/o inner projection k": (13.77, 56.9),
    "w/o inner projection v": (13.90, 55.1),
    "w/o inner projection q": (12.19, 57.4),
}
"""Perplexity and mean accuracy of Hope without a part; model size not stated."""
