"""Pre-trained models of the Llama family, brought into our checkpoint format."""
