"""Reading tokens by kernels that this machine's C compiler makes when they are first needed.

``decode.c`` reads with a native Hope model in place on the slabs of some rows, ``attention.c`` with a
Hope-Attention model through rings of keys and values; ``build`` compiles and loads them, ``decoder`` and
``reader`` call them. Whoever uses one has a form in torch for machines without a compiler.
"""
