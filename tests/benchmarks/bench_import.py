"""`import affinity` against `import attrs`, what it loads, and a bind against the libraries that it needs."""

from __future__ import annotations

import subprocess
import sys

from _timing import milliseconds, ratio

HEAVY = {
    *("attrs", "click", "importlib.metadata", "multiprocessing", "numa", "pynvml", "ray", "rich", "stevedore"),
    *("subprocess", "torch"),
}


def loaded() -> set[str]:
    """The heavy modules that it loads, over those that the environment's own start-up code has loaded."""
    text = f"import sys; before = set(sys.modules); import affinity; print(*({HEAVY} & set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def main() -> int:
    bind, peer = "import affinity; affinity.bind(node=0)", "import attrs, stevedore.named"
    texts = ("import affinity", "import attrs", "import affinity.api", bind, peer)
    times = milliseconds({text: [sys.executable, "-c", text] for text in texts}, 25)
    good = ratio("import", "import affinity", "import attrs", times, 1.3)
    ratio("import of what bind() needs", "import affinity.api", "import attrs", times)
    ratio("bind() in a new process", bind, peer, times)
    heavy = loaded()
    print(f"heavy modules that import affinity loads: {', '.join(sorted(heavy)) or 'none'}")
    return 0 if good and not heavy else 1


if __name__ == "__main__":
    sys.exit(main())
