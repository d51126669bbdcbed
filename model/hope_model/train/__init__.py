"""Training from scratch: data, loop, resume, export."""
