"""Start the engine of this folder: `start.py arguments-as-JSON`. Print what /proc shows of each of its processes."""

import json
import os
import sys

# Where PYTHONSAFEPATH is set, the folder of a script is not on the path. The processes that it spawns inherit the path.
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))


def state(pid: int) -> tuple[list[str], str]:
    """CPUs of every thread, and the memory policy of the main thread (numa_maps: proc(5))."""
    masks = set()
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/status", encoding="ascii") as file:
            masks |= {line.split()[1] for line in file if line.startswith("Cpus_allowed_list")}
    with open(f"/proc/{pid}/numa_maps", encoding="ascii") as file:
        return sorted(masks), file.readline().split()[1]


if __name__ == "__main__":
    from vllm.entrypoints import LLM

    engine = LLM(**json.loads(sys.argv[1]))
    reported = {"server": state(os.getpid())}
    reported |= {name: state(pid) for name, pid in [reader.recv() for reader in engine.processes]}
    print(json.dumps(reported), flush=True)
    for reader in reversed(engine.processes):  # workers first: one may be in its EngineCore
        reader.send(None)
    engine.shutdown()
