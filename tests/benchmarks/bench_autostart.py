"""Time from the start of Python to the first line of a rank's program: without the package, with autostart unset, set.

The environments are two new virtual ones, with the wheel and without it, which share all that it requires. Goal: with
the variable unset at most 1.02 of the time without the package. Set, it costs a rank what `affinity.bind()` costs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from _timing import milliseconds, ratio

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from fresh import ROOT, make, wheel

RANK = {"TORCHELASTIC_RUN_ID": "x", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
CHECK = "import os; assert ('AFFINITY_BOUND' in os.environ) == (os.environ.get('AFFINITY_AUTOSTART') == '1')"


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        bare, installed = make(Path(folder) / "bare"), make(Path(folder) / "installed")
        installed.install(wheel(ROOT, Path(folder) / "dist"))
        here = {name: text for name, text in os.environ.items() if not name.startswith(("AFFINITY_", "PYTHON"))}
        environ = {**here, **RANK, "AFFINITY_NODES": "0,0", "AFFINITY_STRATEGY": "libnuma", "AFFINITY_DEVICES": "pci"}
        on = ["env", "AFFINITY_AUTOSTART=1"]
        python, without = f"{installed.path}/bin/python", f"{bare.path}/bin/python"
        for command in ([python, "-c", CHECK], [*on, python, "-c", CHECK]):  # also writes the byte code
            subprocess.run(command, env=environ, check=True)
        commands = {
            "without the package": ["env", without, "-c", "pass"],
            "unset": ["env", python, "-c", "pass"],
            "set, no rank": ["env", "-u", "LOCAL_RANK", *on[1:], python, "-c", "pass"],
            "set, in a rank": [*on, python, "-c", "pass"],
            "bind() in the program": ["env", python, "-c", "import affinity; affinity.bind()"],
        }
        times = milliseconds(commands, 40, environ)
    good = ratio("start of Python", "unset", "without the package", times, 1.02)
    ratio("start of Python", "set, no rank", "without the package", times)
    ratio("start of Python", "set, in a rank", "without the package", times)
    ratio("start of Python", "set, in a rank", "bind() in the program", times)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
