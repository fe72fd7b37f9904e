"""`affinity doctor` against its nearest peer, `affinity strategies --json`, which loads the same plugins and devices.

Also as a figure against `affinity --version`, which loads none of them. Limit: 100 ms more than a start of the peer.
"""

from __future__ import annotations

import sys
from pathlib import Path

from _timing import milliseconds, ratio, wall

AFFINITY = str(Path(sys.executable).parent / "affinity")
MOST = 100.0


def main() -> int:
    commands = {
        "affinity doctor": [AFFINITY, "doctor"],
        "affinity strategies --json": [AFFINITY, "strategies", "--json"],
        "affinity --version": [AFFINITY, "--version"],
    }
    good = True
    for clock, times in (("processor time", milliseconds(commands, 15)), ("by the clock", wall(commands, 15))):
        mine = times["affinity doctor"]
        for peer in ("affinity strategies --json", "affinity --version"):
            ratio(f"doctor, {clock}", "affinity doctor", peer, times)
            print(f"doctor, {clock}: {mine - times[peer]:.1f} ms more than {peer}")
        good &= mine - times["affinity strategies --json"] <= MOST
    print(f"at most {MOST:g} ms more than the peer: {'yes' if good else 'NO'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
