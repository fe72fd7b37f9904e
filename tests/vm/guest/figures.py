"""Prints the table of docs/explanation/figures.md: how much of a worker is on its node, by strategy.

A process of twenty threads, and 256 MiB touched before the bind (by workers that are born bound: after their
birth). Run it in the emulated machine: `python tests/vm two-package -- python tests/vm/guest/figures.py`.
"""

from __future__ import annotations

from typing import Any

from test_binding import bound_threads, run

MIB, NODE = 256, 2
WAYS = (
    ("nothing", "nothing", "auto"),
    ("`legacy`", "inline", "legacy"),
    ("`libnuma`", "inline", "libnuma"),
    ("`numactl`", "spawn", "numactl"),
    ("`inherit`", "spawn", "inherit"),
)


def row(name: str, found: dict[str, Any], node: int) -> None:
    pages = {str(n): size for n, size in found["own"].items()}
    share = pages.get(str(node), 0) / sum(pages.values())
    moved = f"{found['moved'] >> 20} MiB | {found['seconds']:.2f} s" if found["moved"] else "- | -"
    print(f"| {name} | {bound_threads(found, node):.0%} | {share:.1%} | {moved} |", flush=True)


def head() -> None:
    print("| strategy | threads on the node | own pages on the node | moved | time to move |")
    print("|---|---|---|---|---|")


def main() -> None:
    head()
    for name, mode, strategy in WAYS:
        row(name, run(mode, strategy, NODE, mib=MIB), NODE)


if __name__ == "__main__":
    main()
