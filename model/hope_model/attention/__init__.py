"""Family ``hope_attention``: a pre-trained Llama-family model whose sessions learn."""
