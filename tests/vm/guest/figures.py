"""Prints the table of docs/explanation/figures.md: how much of a worker is on its node, by strategy.

A process of twenty threads, and 256 MiB touched before the bind (by workers that are born bound: after their
birth). Run it in the emulated machine: `python tests/vm two-package -- python tests/vm/guest/figures.py`.
"""

from __future__ import annotations

from test_binding import bound_threads, run

MIB, NODE = 256, 2
WAYS = (
    ("nothing", "nothing", "auto"),
    ("`legacy`", "inline", "legacy"),
    ("`libnuma`", "inline", "libnuma"),
    ("`numactl`", "spawn", "numactl"),
    ("`inherit`", "spawn", "inherit"),
)


def main() -> None:
    print("| strategy | threads on the node | own pages on the node | moved | time to move |")
    print("|---|---|---|---|---|")
    for name, mode, strategy in WAYS:
        found = run(mode, strategy, NODE, mib=MIB)
        pages = found["own"]
        share = pages.get(str(NODE), 0) / sum(pages.values())
        moved = f"{found['moved'] >> 20} MiB | {found['seconds']:.2f} s" if found["moved"] else "- | -"
        print(f"| {name} | {bound_threads(found, NODE):.0%} | {share:.1%} | {moved} |", flush=True)


if __name__ == "__main__":
    main()
