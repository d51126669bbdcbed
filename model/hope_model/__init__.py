"""Hope: a language model whose sessions learn."""
