"""Tasks on local files: questions with given answers, the last word of a passage, the perplexity of a
text.
"""

from hope_model.evaluate.tasks.formats import TASKS

__all__ = ["TASKS"]
