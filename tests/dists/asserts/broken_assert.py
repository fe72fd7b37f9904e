"""Its import fails in an assertion, which stevedore does not catch."""

assert 1 + 1 == 3, "arithmetic"
