"""Its import fails."""

raise RuntimeError("driver 535 or later is needed")
