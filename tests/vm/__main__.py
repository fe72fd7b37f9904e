"""``python tests/vm`` from the project's directory: see USAGE."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

USAGE = """\
python tests/vm prepare                   install and build what machines need
python tests/vm MACHINE [-- COMMAND...]   run a command, or a shell, in a machine
"""


def main() -> int:
    # Some distributions carry a package named tests: go by the file's place.
    here = Path(__file__).resolve().parent
    sys.path[0] = str(here.parent)
    if len(sys.argv) < 2:
        print(USAGE, file=sys.stderr)
        return 2
    name = "prepare" if sys.argv[1] == "prepare" else "boot"
    status: int = importlib.import_module(f"{here.name}.{name}").main()
    return status


if __name__ == "__main__":
    sys.exit(main())
