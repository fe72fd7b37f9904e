"""Its import ends the program."""

import sys

sys.exit("no licence found")
