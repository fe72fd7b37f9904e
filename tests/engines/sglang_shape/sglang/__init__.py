"""A package of the shape of SGLang 0.5.23, without its work: what a plugin sees of a start of two schedulers.

Names, signatures and order of calls are SGLang's (Apache-2.0). Its own bindings print a line in place of their work.
"""

__version__ = "0.5.23"
