"""`affinity plan --gpu all` with 16 GPUs: through the fake driver, from sysfs alone, and against gpurun-numa.

Whole processes with their children, in turn; medians of processor time, since neighbours decide the wall's. gpurun
(PyPI package gpurun-numa, installed into a folder of its own for this) answers the same question, `gpurun -g 0,…,15
--dry-run`; its nvidia-smi is a placeholder that prints the table at once, so the driver's own time is in neither.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import driver

from affinity.testing import machines, trees
from affinity.testing.machines import Machine

ROUNDS = 9


def nvidia_smi(machine: Machine, directory: Path) -> None:
    """A placeholder that finds `-L` and `topo -m`."""
    listed = "".join(f"GPU {i}: {g.model} (UUID: {g.uuid})\\n" for i, g in enumerate(machine.gpus))
    table = "\\tGPU0\\tCPU Affinity\\tNUMA Affinity\\tGPU NUMA ID\\n" + "".join(
        f"GPU{i}\\tX\\t{machine.local_cpus(g.node)}\\t{g.node}\\tN/A\\n" for i, g in enumerate(machine.gpus)
    )
    directory.mkdir()
    script = directory / "nvidia-smi"
    script.write_text(f"#!/bin/sh\n[ \"$1\" = -L ] && printf '{listed}' || printf '{table}'\n", encoding="ascii")
    script.chmod(0o755)


def gpurun(directory: Path) -> list[str] | None:
    """The command, or None where it cannot be installed."""
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(directory), "gpurun-numa"]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"gpurun-numa cannot be installed here: {(done.stderr.strip().splitlines() or ['no reason'])[-1]}")
        return None
    return [sys.executable, "-c", "import sys; from gpurun.cli import main; sys.exit(main())"]


def seconds(command: list[str], env: dict[str, str]) -> float:
    """Of a processor, for the command and all it started."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    machine = machines.get("dgx-2")
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        root = trees.write(machine, here / "root")
        env = driver.environment(driver.build(here / "library"), driver.describe(machine), here / "driver")
        del env["FAKE_NVML_LOG"]
        plan = [os.path.join(os.path.dirname(sys.executable), "affinity"), "plan", "--gpu", "all", "--root", root]
        cases = {
            "plan, nvml": (plan, {**env, "AFFINITY_DEVICES": "nvml"}),
            "plan, pci": (plan, {**env, "AFFINITY_DEVICES": "pci"}),
            "python alone": ([sys.executable, "-c", "pass"], env),
        }
        other = gpurun(here / "gpurun")
        if other is not None:
            nvidia_smi(machine, here / "bin")
            theirs = {
                **env,
                "PATH": f"{here / 'bin'}:{env['PATH']}",
                "PYTHONPATH": str(here / "gpurun"),
                "GPURUN_CACHE_DIR": str(here / "cache"),
            }
            ask = [*other, "-g", ",".join(map(str, range(16))), "--mode", "taskset", "--dry-run"]
            cases["gpurun, cached"] = ([*ask, "true"], theirs)
            cases["gpurun, asked"] = ([*ask, "--refresh-topology", "true"], theirs)
        taken: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(ROUNDS):
            for name, (command, environment) in cases.items():
                taken[name].append(seconds(command, environment))
    median = {name: statistics.median(times) for name, times in taken.items()}
    print("16 GPUs: " + ", ".join(f"{name} {s * 1e3:.0f} ms" for name, s in median.items()))
    print(f"plan: nvml / pci = {median['plan, nvml'] / median['plan, pci']:.2f}")
    for name in ("gpurun, cached", "gpurun, asked"):
        if name in median:
            print(f"plan, nvml / {name} = {median['plan, nvml'] / median[name]:.2f}")


if __name__ == "__main__":
    main()
