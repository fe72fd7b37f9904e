"""Message and exit status of a command that ends with an AffinityError."""

from __future__ import annotations

import sys


def report_error(error: Exception) -> int:
    """Print an error on stderr; return the exit status."""
    from affinity.errors import BindError

    print(f"affinity: {error}", file=sys.stderr)
    return 3 if isinstance(error, BindError) else 2
