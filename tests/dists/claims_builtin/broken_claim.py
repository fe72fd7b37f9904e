"""It claims the name of a built-in plugin; it must not even be imported."""

raise AssertionError("a claimant was loaded")
