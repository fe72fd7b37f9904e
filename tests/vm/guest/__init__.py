"""The tests that run inside the emulated machines."""
