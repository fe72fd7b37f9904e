"""Its entry points name things that are not there."""
