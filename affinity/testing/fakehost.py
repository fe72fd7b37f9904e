"""`FakeHost`: any machine with a simulated kernel, on which a bind has the effects that it has on Linux.

    fake = FakeHost("dgx-h100", threads=20)
    report = affinity.bind(gpu=4, host=fake.host)
    fake.kernel.changes                         every call that changed something
    with fake.installed(): ...                  calls without `host=` act on it, as an engine makes them

The simulated kernel is described in `affinity.testing.simkernel`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Self

from affinity import CpuSet, Host, NodeSet, UsageError
from affinity.host import simulated
from affinity.kernel import MemoryMode
from affinity.launchers import Launch, LaunchMode
from affinity.policies import Observation
from affinity.strategies import WorkerStart
from affinity.testing import machines
from affinity.testing.simkernel import SimulatedKernel
from affinity.topology import Topology

__all__ = ["FakeHost", "SimulatedKernel"]


class FakeHost:
    """A process on a simulated machine.

    >>> import affinity
    >>> from affinity.testing import FakeHost
    >>> fake = FakeHost("dgx-h100", threads=20)
    >>> str(affinity.bind(gpu=4, host=fake.host).requested.memory)
    'preferred:1'
    >>> str(fake.kernel.get_affinity())
    '56-111,168-223'

    machine: a name (`dgx-h100`), a synthetic line (`pack:2 core:4`), a captured tree's path, a `machines.Machine` or a
    `Topology`. allowed_cpus, allowed_nodes: the cpuset of its container; default: that of a named machine, else all
    that are online. threads: number of threads of the process. environ: its variables, besides PATH. mask, libnuma,
    modes, resets_masks, free: as for SimulatedKernel. Sets may be given as text, `0-3,8`.
    """

    def __init__(
        self,
        machine: str | machines.Machine | Topology = "pack:2 numa:1 core:4 pu:2 gpu:2",
        *,
        allowed_cpus: CpuSet | str | None = None,
        allowed_nodes: NodeSet | str | None = None,
        mask: CpuSet | str | None = None,
        threads: int = 1,
        environ: Mapping[str, str] | None = None,
        libnuma: str = "",
        modes: Iterable[MemoryMode] = MemoryMode,
        resets_masks: bool = False,
        free: Mapping[int, int] | None = None,
    ) -> None:
        if isinstance(machine, str) and machine in machines.names():
            machine = machines.get(machine)
        record = machine if isinstance(machine, machines.Machine) else None
        if isinstance(machine, machines.Machine):
            topology = machine.topology()
        else:
            topology = machines.load(machine) if isinstance(machine, str) else machine
        Host.foreign(topology, allowed_cpus=allowed_cpus, allowed_nodes=allowed_nodes)  # refuses what is not on it
        if free is not None and not free.keys() <= topology.by_id.keys():
            strange = NodeSet(free.keys() - topology.by_id.keys())
            raise UsageError(f"free: node {strange} is not on the machine: its nodes are {NodeSet(topology.by_id)}")
        if record is not None:  # its cpuset may list CPUs that are offline
            allowed_cpus = record.allowed_cpus if allowed_cpus is None else allowed_cpus
            allowed_nodes = record.allowed_nodes if allowed_nodes is None else allowed_nodes
        self.kernel = SimulatedKernel(
            topology,
            cpuset=allowed_cpus,
            mems=allowed_nodes,
            mask=mask,
            environ={"PATH": os.environ.get("PATH", os.defpath), **(environ or {})},
            libnuma=libnuma,
            modes=modes,
            resets_masks=resets_masks,
            free=free,
        )
        for _ in range(threads - 1):
            self.kernel.start_thread()

    @property
    def topology(self) -> Topology:
        return self.kernel.topology

    @property
    def host(self) -> Host:
        """The host as the process reads it now: pass it to `affinity.bind(host=…)` or `affinity.plan`."""
        from affinity.handoff import baseline_cpus

        cpus = baseline_cpus(self.kernel) & self.topology.online
        return Host(self.topology, self.kernel, cpus, self.kernel.allowed_nodes())

    @property
    def observation(self) -> Observation:
        """`host` with a launch of mode `inline` and default settings: pass it to a strategy's methods."""
        return Observation(self.host, Launch(LaunchMode.INLINE))

    @contextmanager
    def installed(self) -> Iterator[Self]:
        """Make this process the one that `affinity.bind()`, and every other call without `host=`, acts on.

        This applies to every thread. Within the block its environment is `os.environ`: the variables of this FakeHost
        are set there, and what `monkeypatch.setenv` sets counts, as does what the process that runs the test has. At
        the end `os.environ` is as it was before the block. No `multiprocessing` process can be started in it.
        """
        from affinity.strategies.start import install_hooks

        install_hooks()
        with self.kernel.environ_in_os(), simulated(self):
            yield self

    def start_process(self, *, threads: int = 1, size: int = 0) -> SimulatedKernel:
        """Start another process, as a server that never calls this package; return its kernel.

        It has this process's mask and policy, that many threads, and touches `size` bytes. Its PID is what
        `affinity.attach(pid, host=fake.host)` takes.
        """
        other = self.kernel.spawn(["server"])
        for _ in range(threads - 1):
            other.start_thread()
        other.touch(size)
        return other

    def start_worker(self, start: WorkerStart | None = None) -> FakeHost:
        """Start a worker as `multiprocessing`'s spawn method does, and return its process.

        start: what a strategy's `start()` returned; default: of the open `affinity.spawning(host=fake.host)` block.
        Raises affinity.testing.programs.CommandFailed if a program before the worker's command fails.
        """
        from affinity.strategies.start import PreparedStart, current_block, worker_command

        main = "from multiprocessing.spawn import spawn_main; spawn_main(tracker_fd=5, pipe_handle=7)"
        argv = [sys.executable, "-c", main, "--multiprocessing-fork"]
        block = current_block()
        if start is not None:
            prepared = PreparedStart(start, "")
        else:
            prepared = block.prepare("spawn") if block is not None else PreparedStart(WorkerStart(), "")
        child = object.__new__(FakeHost)
        with prepared.start.around():
            child.kernel = self.kernel.spawn(worker_command(argv, prepared))
        prepared.started(child.kernel.pid)
        return child

    def __str__(self) -> str:
        """Return a drawing of the machine, with the CPUs of each thread of the process."""
        from affinity.testing.drawing import draw

        kernel = self.kernel
        masks: dict[CpuSet, list[int]] = {}
        for tid, mask in kernel.masks.items():
            masks.setdefault(mask, []).append(tid)
        lines = [draw(self.topology, kernel.cpuset, kernel.allowed_memory), f"process {kernel.pid}:"]
        lines += [f"  threads {', '.join(map(str, tids))}: CPUs {mask}" for mask, tids in masks.items()]
        policy = kernel.policies[kernel.thread_id()]
        lines.append(f"  memory policy {policy}, bytes on nodes {dict(kernel.pages_by_node) or 'none'}")
        return "\n".join(lines)
