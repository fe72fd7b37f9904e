"""Tables of the command: whole words in a narrow terminal, and in a pipe lines that are easy to cut."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

import pytest
from commands import called
from terminal import on_terminal

import affinity
from affinity.cli import _output
from affinity.testing import FakeHost, machines, trees
from affinity.variables import VARIABLES

COMMANDS = ("show", "plan", "explain", "strategies")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    return lambda name: trees.write(machines.get(name), tmp_path_factory.mktemp(name))


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ["dgx-h100", "gb200", "vm-two-nodes"])
def test_at_60_columns_no_word_is_broken(name: str, command: str, tree: Callable[[str], str]) -> None:
    """Addresses and names of variables are whole, and no line is longer than the terminal is wide."""
    shown = on_terminal(command, "--root", tree(name), columns=60)
    assert not [line for line in shown.splitlines() if len(line) > 60 and "/" not in line]  # a path is not broken
    if command in ("show", "plan"):
        assert all(str(gpu.pci) in shown.split() for gpu in machines.get(name).gpus)
    if command == "explain":
        assert all(variable.name in shown.split() for variable in VARIABLES)


def test_a_reason_that_has_no_room_is_below_the_table(tree: Callable[[str], str]) -> None:
    """Once for all rows that share it; what else is missing is named."""
    shown = on_terminal("plan", "--root", tree("dgx-h100"), "--allowed-cpus", "0-3", columns=60)
    assert shown.count("launch mode spawn") == 2  # the title, and once below
    assert "reason (0, 1, 2, 3): launch mode spawn: affinity starts this\nprocess" in shown
    assert "reason (4, 5, 6, 7): no CPU of node 1" in shown
    wide = on_terminal("plan", "--root", tree("dgx-h100"), columns=200)
    assert wide.count("affinity starts this process") == 8


def test_processes_fit_60_columns() -> None:
    """What may be left out is; PID, GPU, node and locality never."""
    row = (4711234, "ann", "python3 serve.py", "phys:15", "0000:1b:00.0", 0, "uses", "56-111,168-223", "0 of 20",
           "default", "0:14.2G ±3%", "libnuma since Nov 27 03:00", "not bound")  # fmt: skip
    text = (
        "from affinity.cli import _output, ps\n"
        f"print('\\n'.join(_output.grid('Processes', ps._COLUMNS, [{row!r}], optional=ps._OPTIONAL)))"
    )
    for columns in (60, 80, 100, 160):
        shown = on_terminal("-c", text, columns=columns, program=(sys.executable,))
        assert max(map(len, shown.splitlines())) <= columns
        assert {"4711234", "phys:15", "0", "bound"} <= set(shown.split())
        assert shown.count("0000:1b") == shown.split().count("0000:1b:00.0") == (columns >= 100)


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_piped_is_one_line_a_row_and_easy_to_cut(command: str, tree: Callable[[str], str]) -> None:
    """The same at every width: no trailing spaces, and as many cells as heads, two spaces apart."""
    arguments = (command, "--root", tree("dgx-h100"))
    shown = called(*arguments).stdout
    assert shown == called(*arguments, COLUMNS="40").stdout
    assert not [line for line in shown.splitlines() if line != line.rstrip()]
    assert "\x1b" not in shown
    tables = 0
    for part in shown.split("\n\n"):
        rows = [re.split(r" {2,}", line) for line in part.splitlines()]
        heads = next((i for i, row in enumerate(rows) if len(row) > 1), None)
        if heads is not None and "Links" not in part and "PIX " not in part:
            assert {len(row) for row in rows[heads:]} == {len(rows[heads])}, part
            tables += 1
    assert tables


def test_a_row_has_the_ordinal_that_is_typed_the_address_and_the_name() -> None:
    """What CUDA calls 0 in this process; a hidden GPU by its place in PCI order."""
    fake = FakeHost(machines.get("dgx-h100"), environ={"CUDA_VISIBLE_DEVICES": "3,1"})
    launch = affinity.plan(gpu="all", host=fake.host).launch
    assert [launch.reference(gpu) for gpu in launch.machine_gpus[:5]] == ["phys:0", "1", "phys:2", "0", "phys:4"]
    for gpu in launch.machine_gpus:
        assert affinity.plan(gpu=launch.reference(gpu), host=fake.host).launch.gpus == (gpu,)


def test_what_is_not_put_in_force_has_no_cpus() -> None:
    """A plan with strategy `noop` lists none, since none will be set."""
    done = called("plan", "--synthetic", "pack:2 core:2 gpu:1", AFFINITY_STRATEGY="noop")
    rows = [re.split(r" {2,}", line) for line in done.stdout.splitlines()[2:4]]
    assert [row[4:7] for row in rows] == [["-", "-", "noop"]] * 2


def test_text_of_others_does_not_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """A command line may have escape sequences, line ends and runs of spaces."""
    _output.table("t", ("PID", "command"), [(1, "a\x1b[2J\n  b")])
    assert capsys.readouterr().out == "t\nPID  command\n1    a\ufffd[2J b\n\n"


def test_empty_nodes_are_one_line(tree: Callable[[str], str]) -> None:
    """And are not counted among those whose memory is allowed."""
    shown = called("show", "--machine", "gb200").stdout.splitlines()
    assert "memory allowed on nodes 0-2,10,18,26" in shown
    assert "nodes without CPUs, memory and devices: 3-9,11-17,19-25,27-33" in shown
    assert "node  0    1    2    10   18   26" in shown


def test_counts_that_have_no_room_are_not_below_the_table() -> None:
    """As the last column of texts is."""
    shown = on_terminal("show", "--machine", "dgx-h100", columns=60)
    assert "NICs: 6" not in shown
    assert "too narrow: NICs" in shown


def test_a_matrix_is_several_tables_on_a_narrow_terminal(tree: Callable[[str], str]) -> None:
    """Each with the first column; every pair is there."""
    shown = on_terminal("show", "--root", tree("snc-16-nodes"), columns=40)
    distances = shown.partition("Distances")[2].partition("Caches")[0]
    parts = [part.splitlines()[-17:] for part in distances.strip().split("\n\n")]
    assert len(parts) == 2
    heads = [head for part in parts for head in part[0].split()[1:]]
    assert heads == [str(n) for n in range(16)]
    assert all(part[1].split()[0] == "0" and len(part) == 17 for part in parts)


def test_show_has_what_users_of_topo_and_lstopo_look_for(tree: Callable[[str], str]) -> None:
    """Caches, memory and free memory, RDMA devices, and the nearest of each GPU with the link."""
    shown = called("show", "--root", tree("dgx-h100")).stdout
    rows = [re.split(r" {2,}", line) for line in shown.splitlines()]
    assert ["L3", "105MiB", "2", "0-55,112-167"] in rows
    assert ["L1d", "48KiB", "112", "0,112"] in rows
    assert ["7", "0000:df:00.0", "1", "mlx5_11 PIX", "yes", "-", "nvidia", "-", "from PCI numa_node"] in rows
    assert ["0", "0-55,112-167", "0-55,112-167", "1008.0GiB", "1008.0GiB", "yes", "4", "6"] in rows
    assert ["mlx5_8", "0000:aa:00.1", "1", "mlx5_8", "-"] in rows
    links = next(row for row in rows if row[:2] == ["0", "X"])
    heads = next(row for row in rows if row[0] == "GPU" and "mlx5_0" in row)
    assert dict(zip(heads, links, strict=True))["mlx5_0"] == "PIX"
    assert dict(zip(heads, links, strict=True))["4"] == "SYS"


def test_a_machine_without_caches_adapters_and_gpus_has_no_such_table() -> None:
    """Nothing is made up."""
    shown = called("show", "--synthetic", "pack:1 core:2").stdout
    assert "\nNICs\n" not in shown
    assert "Links" not in shown
    assert "no GPU found" in shown
