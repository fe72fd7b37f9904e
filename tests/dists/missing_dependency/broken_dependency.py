"""It needs a package that is not installed."""

import hwloc_bindings_that_none_has  # noqa: F401
