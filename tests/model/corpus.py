"""What training and evaluation run on: levels that write often, words that look like words."""

from hope_model.config import HopeConfig, LevelConfig

CONFIG = HopeConfig(
    "test",
    vocab_size=300,
    width=32,
    layers=2,
    heads=2,
    mlp_width=32,
    chunk=8,
    cms_width=16,
    levels=(LevelConfig("cms-8", 8), LevelConfig("cms-32", 32)),
    block=32,
)
SYLLABLES = ("ka", "lo", "mi", "tes", "run", "dor", "be", "sha", "ing", "ed", "the", "an")
