"""`python -m affinity`: the command, where no console script is on PATH."""

from affinity.cli import main

main()
