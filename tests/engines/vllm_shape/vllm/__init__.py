"""A package of the shape of vLLM 0.33.0, without its work: what a plugin sees of a start of two workers.

Names, signatures and order of calls are vLLM's (Apache-2.0). Its own binding prints a line in place of its work.
"""

__version__ = "0.33.0"
