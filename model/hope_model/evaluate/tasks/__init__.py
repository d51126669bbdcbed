"""Tasks on local files: questions with given answers, the last word of a passage, the perplexity of a
text.
"""
