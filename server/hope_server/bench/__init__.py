"""`hope bench`: how fast the engine decodes, and what a server gives its clients under load."""
