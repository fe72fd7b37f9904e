"""Write the pictures of the documentation: `python docs/pictures/make.py`.

The machines are the named ones of affinity.testing; the misplaced process is one of a simulated kernel, read and
assessed as `affinity ps` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from affinity import NodeSet, Settings
from affinity.api import plan_each
from affinity.devices import Evidence, GpuUse
from affinity.kernel import MemoryMode, MemoryPolicy
from affinity.observe import observe
from affinity.plugins import Plugins
from affinity.render import serialize, svg
from affinity.render.picture import Picture, picture
from affinity.report.processes import GpuProcesses
from affinity.testing import FakeHost

HERE = Path(__file__).resolve().parent
SETTINGS = Settings(devices=("pci",))
GiB = 1 << 30


def planned(machine: str, title: str) -> Picture:
    """Return a named machine with the plan of each GPU."""
    host = FakeHost(machine).host
    shape = serialize.machine(host, observe(Plugins(), gpu="all", settings=SETTINGS, host=host).launch)
    plans = plan_each(launch_mode="spawn", settings=SETTINGS, host=host)
    return picture(shape, [serialize.plan(plan) for plan in plans], title=title)


def misplaced() -> Picture:
    """Return a machine with a bound worker and one that runs on the wrong package."""
    fake = FakeHost("pack:2 numa:1 core:16 pu:2 gpu:1 nic:1")
    reader = GpuProcesses.of(fake.host, SETTINGS)
    workers = {}
    for gpu, node in ((reader.gpus[0], 0), (reader.gpus[1], 0)):  # the second belongs on node 1
        worker = fake.kernel.spawn(["python", "serve.py"])
        worker.set_affinity(0, fake.topology.cpus_of(NodeSet([node])))
        worker.set_mempolicy(MemoryPolicy(MemoryMode.PREFERRED, NodeSet([node])))
        for _ in range(11):
            worker.start_thread()
        worker.touch(6 * GiB)
        workers[worker.pid] = gpu
    uses = [GpuUse(pid, gpu.pci, Evidence.USES, "") for pid, gpu in workers.items()]
    shape = serialize.machine(fake.host, observe(Plugins(), gpu="all", settings=SETTINGS, host=fake.host).launch)
    rows = [serialize.process(row) for row in reader.rows(uses)]
    return picture(shape, [], rows, title="A server with one worker on the wrong package")


def pictures() -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each file."""
    yield "dgx-h100.svg", svg.document(planned("dgx-h100", "DGX H100"))
    yield "gb200.svg", svg.document(planned("gb200", "GB200 tray"))
    yield "misplaced.svg", svg.document(misplaced())


if __name__ == "__main__":
    for name, text in pictures():
        (HERE / name).write_text(text, encoding="utf-8")
        print(HERE / name)
