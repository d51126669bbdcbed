"""Decoding a native Hope model by a kernel that this machine's C compiler makes when it is first needed.

``decode.c`` reads one token of each of some rows in place on their slabs; ``build`` compiles and loads it,
``decoder`` calls it. Whoever uses it has a form in torch for machines without a compiler.
"""
