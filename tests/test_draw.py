"""`affinity draw`: the boxes of a machine, in a terminal and as SVG."""

from __future__ import annotations

import os
import pty
import runpy
import subprocess
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from commands import COMMAND, called

from affinity import CpuSet, NodeSet, Settings
from affinity.cli.draw import drawn
from affinity.devices import Evidence, GpuUse
from affinity.kernel import MemoryMode, MemoryPolicy
from affinity.render import serialize, svg, terminal
from affinity.render.picture import Box, Kind, Mark, Picture, picture
from affinity.report.processes import GpuProcesses
from affinity.testing import FakeHost, machines

SVG = "{http://www.w3.org/2000/svg}"
SMALL = "pack:2 core:4 pu:2 gpu:1 nic:1"


def boxes(found: Picture, kind: Kind) -> list[Box]:
    return [box for box in found.box.walk() if box.kind is kind]


def of(name: str, **more: object) -> Picture:
    return drawn(FakeHost(name).host, **more)  # type: ignore[arg-type]


def with_processes(*nodes: int, machine: str = SMALL) -> Picture:
    """A machine with a process of 3 threads and 1 GiB for each GPU, on these nodes."""
    fake = FakeHost(machine)
    reader = GpuProcesses.of(fake.host, Settings(devices=("pci",)))
    uses = []
    for gpu, node in zip(reader.gpus, nodes, strict=True):
        process = fake.kernel.spawn(["python", f"serve{node}.py"])
        process.set_affinity(0, fake.topology.cpus_of(NodeSet([node])))
        process.set_mempolicy(MemoryPolicy(MemoryMode.PREFERRED, NodeSet([node])))
        for _ in range(2):
            process.start_thread()
        process.touch(1 << 30)
        uses.append(GpuUse(process.pid, gpu.pci, Evidence.USES, ""))
    return picture(drawn(fake.host).machine, [], [serialize.process(row) for row in reader.rows(uses)])


def test_equal_cores_of_a_large_machine_are_one_box() -> None:
    """As of a DGX H100: 112 cores, in two boxes with the caches of each core."""
    found = of("dgx-h100")
    assert [(box.title, box.lines) for box in boxes(found, Kind.CORES)] == [
        ("56 cores x 2 PU", ("CPUs 0-55,112-167", "L2 2 MiB, L1d 48 KiB, L1i 32 KiB each")),
        ("56 cores x 2 PU", ("CPUs 56-111,168-223", "L2 2 MiB, L1d 48 KiB, L1i 32 KiB each")),
    ]
    assert [box.title for box in boxes(found, Kind.CACHE)] == ["L3 105 MiB", "L3 105 MiB"]
    assert found.summary == "2 packages, 2 NUMA nodes, 112 cores, 8 GPUs, 12 NICs"


def test_each_core_of_a_small_machine_is_a_box() -> None:
    """Numbered as lstopo's logical indexes are."""
    assert [box.title for box in boxes(of(SMALL), Kind.CORES)] == [f"core {n}" for n in range(8)]


def test_equal_l3_caches_are_one_box() -> None:
    """A node of a DGX A100 has four L3 domains of four cores each."""
    found = boxes(of("dgx-a100"), Kind.CACHE)
    assert len(found) == 8
    assert found[0].title.startswith("4 x L3")
    assert found[0].lines == ("CPUs 0-15,128-143", "in each:")
    assert [box.title for box in found[0].children] == ["4 cores x 2 PU"]


def test_an_l3_of_several_nodes_is_marked_as_shared() -> None:
    """With sub-NUMA clusters the kernel lists one L3 for the whole package."""
    shape = drawn(FakeHost("pack:1 numa:2 core:4").host).machine
    caches = [{"level": 3, "type": "unified", "size": 105 << 20, "cpus": ["0-7"]}]
    found = boxes(picture({**shape, "caches": caches}), Kind.CACHE)
    assert [box.title for box in found] == ["L3 105 MiB, shared with node 1", "L3 105 MiB, shared with node 0"]
    assert [[core.title for core in box.children] for box in found] == [
        [f"core {n}" for n in range(4)],
        [f"core {n}" for n in range(4, 8)],
    ]


def test_devices_are_at_their_node_and_below_their_switch() -> None:
    """An adapter below a GPU's switch is beside it, the others are at the node."""
    first, second = boxes(of("dgx-h100"), Kind.NODE)
    titles = [[inner.title for inner in box.children] for box in first.children if box.kind is Kind.PCI]
    assert titles == [[f"GPU {n}", f"NIC mlx5_{nic}"] for n, nic in enumerate((0, 3, 4, 5))]
    assert [box.title for box in first.children if box.kind is Kind.NIC] == ["NIC mlx5_1", "NIC mlx5_2"]
    assert [box.title for box in second.walk() if box.kind is Kind.GPU] == [f"GPU {n}" for n in range(4, 8)]


def test_empty_nodes_are_one_line_and_memory_is_at_the_nearest_package() -> None:
    """A GB200 tray has 34 nodes, 28 of them without anything."""
    found = of("gb200")
    assert "28 nodes without CPUs, memory and devices: 3-9,11-17,19-25,27-33" in found.box.lines
    assert [[box.title for box in package.children] for package in found.box.children] == [
        ["NUMA node 0", "NUMA node 2", "NUMA node 10"],
        ["NUMA node 1", "NUMA node 18", "NUMA node 26"],
    ]


def test_what_is_not_allowed_is_marked() -> None:
    """CPUs 0-1 and node 1 are taken away."""
    host = FakeHost(SMALL, allowed_cpus="2-15", allowed_nodes="0").host
    found = drawn(host)
    marked = [box.title for box in found.box.walk() if box.mark is Mark.NOT_ALLOWED]
    assert marked == ["core 0", "NUMA node 1"]
    assert found.box.lines == ("CPUs 0-15, allowed here 2-15", "memory of node 1 is not allowed here")


def test_a_plan_is_at_each_gpu_and_at_its_cores() -> None:
    """A policy that splits the node's cores shows each worker's share."""
    found = of("dgx-h100", policy="exclusive", planned=True)
    gpus, cores = boxes(found, Kind.GPU), boxes(found, Kind.CORES)
    assert gpus[1].text[1] == "plan: CPUs 14-27,126-139"
    assert "PCI numa_node" in gpus[1].reason
    assert found.plans[1]["placement_reason"] in gpus[1].reason
    assert [box.lines[-1] for box in cores] == [f"plan: GPU {n}" for n in range(8)]
    assert [box.title for box in cores] == ["14 cores x 2 PU"] * 8


def test_a_misplaced_process_is_seen_where_it_is_and_where_it_belongs() -> None:
    """Both processes run on node 0; the second uses the GPU of node 1."""
    found = with_processes(0, 0)
    first, second = boxes(found, Kind.NODE)
    local, wrong = (box for box in first.children if box.kind is Kind.PROCESS)
    (missing,) = (box for box in second.children if box.kind is Kind.PROCESS)
    assert (local.mark, wrong.mark, missing.mark) == (Mark.LOCAL, Mark.MISPLACED, Mark.MISPLACED)
    assert local.lines == ("uses GPU 0", "3 of 3 threads may run here", "1 GiB (100%) of its memory here")
    assert wrong.lines == ("uses GPU 1 on node 1", "3 of 3 threads may run here", "1 GiB (100%) of its memory here")
    assert missing.lines == ("belongs here, with GPU 1", "none of 3 threads may run here", "no memory here")
    assert wrong.reason.startswith("remote: 3 of 3 threads may run outside CPUs 8-15; 100% of its memory is not on")
    assert found.summary.endswith("1 of 2 processes misplaced")


@pytest.mark.parametrize("width", [50, 80, 140])
@pytest.mark.parametrize("name", machines.names())
def test_a_terminal_drawing_fits(name: str, width: int) -> None:
    """Every named machine, with its plan: no line is wider, no CPU list of a GPU is missing."""
    found = of(name, planned=True)
    text = terminal.drawing(found, width)
    assert max(map(len, text.splitlines())) == width
    assert "\x1b" not in text
    for box in found.box.walk():
        assert box.title.split()[0] in text


@pytest.mark.parametrize("name", machines.names())
def test_an_svg_is_well_formed_and_its_boxes_are_nested(name: str) -> None:
    """Every box is inside its parent, overlaps no neighbour, and is wide enough for its text; it has a tooltip."""
    found = of(name, planned=True)
    text = svg.document(found)
    root = ET.fromstring(text)
    assert (root.tag, root.get("role")) == (f"{SVG}svg", "group")
    assert [child.tag for child in root][:3] == [f"{SVG}title", f"{SVG}desc", f"{SVG}style"]
    assert not [element for element in root.iter() if element.get("id") or element.get("href")]
    groups = list(root.iter(f"{SVG}g"))
    assert len(groups) == len(list(found.box.walk()))
    for group in groups:
        left, top, right, bottom = area(group)
        assert group.get("aria-label")
        assert group.findtext(f"{SVG}title")
        for line in group.findall(f"{SVG}text"):
            x, y = float(line.get("x", "")), float(line.get("y", ""))
            assert left < x < x + 7.3 * len(line.text or "") < right, line.text
            assert top < y < bottom
        inside = [area(child) for child in group.findall(f"{SVG}g")]
        assert all(left < x and top < y and r < right and b < bottom for x, y, r, b in inside)
        for number, (x, y, r, b) in enumerate(inside):
            assert all(r <= x2 or r2 <= x or b <= y2 or b2 <= y for x2, y2, r2, b2 in inside[:number])


def area(group: ET.Element) -> tuple[float, float, float, float]:
    """The left, top, right and bottom edge of a group's rectangle."""
    rect = group.find(f"{SVG}rect")
    assert rect is not None
    x, y, width, height = (float(rect.get(key, "")) for key in ("x", "y", "width", "height"))
    return x, y, x + width, y + height


def test_a_command_line_of_another_user_is_only_text() -> None:
    """It is neither markup nor a control sequence."""
    found = with_processes(0, 0)
    rows = [{**row, "command": ["<script>\x1b[2J&", "]]>"], "worker": None} for row in found.processes]
    hostile = picture(found.machine, [], rows)
    assert "\x1b" not in terminal.drawing(hostile)
    root = ET.fromstring(svg.document(hostile))
    assert not list(root.iter(f"{SVG}script"))
    assert "<script>\ufffd[2J& ]]>" in "".join(root.itertext())


def test_the_command_draws_and_writes(tmp_path: Path) -> None:
    """A file of each kind, a piped drawing without colour, and what it refuses."""
    done = called("draw", "--synthetic", SMALL, "--policy", "exclusive")
    assert (done.returncode, done.stderr) == (0, "")
    assert "plan: CPUs 0-7" in done.stdout
    assert "\x1b" not in done.stdout
    file = tmp_path / "a.svg"
    done = called("draw", "--synthetic", SMALL, "-o", str(file))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", f"wrote {file}\n")
    assert ET.parse(file).getroot().tag == f"{SVG}svg"
    done = called("draw", "--synthetic", SMALL, "-o", "a.png")
    assert done.returncode == 2
    assert "-o a.png: expected a name that ends in .svg or .html" in done.stderr
    done = called("draw", "--synthetic", SMALL, "-o", str(tmp_path / "no" / "a.svg"))
    assert done.returncode == 2
    assert "a.svg: No such file or directory; name a file in a writable directory" in done.stderr
    done = called("draw", "--synthetic", SMALL, "--ps")
    assert done.returncode == 2
    assert "--ps shows processes of this machine" in done.stderr


def test_a_terminal_has_colours() -> None:
    """On this machine, with its processes."""
    leader, follower = pty.openpty()
    environ = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80"}
    environ.pop("NO_COLOR", None)
    shown = subprocess.Popen([COMMAND, "draw", "--ps"], stdout=follower, env=environ)
    os.close(follower)
    text = b""
    while True:
        try:
            text += os.read(leader, 65536)
        except OSError:  # the terminal's other end is closed
            break
    os.close(leader)
    assert shown.wait(timeout=30) == 0
    assert b"\x1b[" in text
    assert "this machine" in text.decode()
    assert "no process uses a GPU here" in text.decode()


def test_a_note_states_that_no_process_uses_a_gpu() -> None:
    found = drawn(FakeHost(SMALL).host, ps=True)
    assert found.processes == ()
    assert "no process uses a GPU here" in found.notes


def test_cores_are_in_the_json() -> None:
    """Each core's CPUs, in the order of their lowest."""
    nodes = drawn(FakeHost("dgx-h100").host).machine["nodes"]
    assert nodes[1]["cores"][:2] == ["56,168", "57,169"]
    assert [len(node["cores"]) for node in nodes] == [56, 56]
    assert CpuSet(cpu for core in nodes[0]["cores"] for cpu in CpuSet.parse(core)) == CpuSet.parse("0-55,112-167")


def test_the_pictures_of_the_documentation_are_current() -> None:
    """Otherwise: `python docs/pictures/make.py`."""
    folder = Path(__file__).resolve().parent.parent / "docs/pictures"
    made = runpy.run_path(str(folder / "make.py"))["pictures"]()
    kept = {file.name: file.read_text(encoding="utf-8") for file in folder.glob("*.svg")}
    assert kept.keys() == {"dgx-h100.svg", "gb200.svg", "misplaced.svg"}
    assert kept == dict(made)
