"""The table of switches that change a binding: what shows each, what `affinity explain` prints, and the page."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import affinity, called, printed

from affinity.collisions import COLLISIONS, find

#: Variables that show a row of the table, by its owner; and variables of the same owner that are harmless.
SHOWN = [
    ("SGLang", {"SGLANG_NUMA_BIND_V2": "False"}, {"SGLANG_NUMA_BIND_V2": "1"}),
    ("SGLang", {"SGLANG_AUTO_NUMA_BIND": "0"}, {"SGLANG_AUTO_NUMA_BIND": "1"}),
    ("SGLang", {"SGLANG_SET_CPU_AFFINITY": "true"}, {"SGLANG_SET_CPU_AFFINITY": "0"}),
    ("SGLang", {"SGLANG_PLUGINS": "other"}, {"SGLANG_PLUGINS": "other, affinity"}),
    ("vLLM", {"_VLLM_INTERNAL_NUMACTL_ARGS": "--membind=0"}, {"VLLM_USE_V1": "1"}),
    ("vLLM", {"VLLM_PLUGINS": "other, affinity"}, {"VLLM_PLUGINS": "other,affinity"}),
    ("vLLM", {"VLLM_PLUGINS": ""}, {}),
    ("TensorRT-LLM", {"TLLM_NUMA_AWARE_WORKER_AFFINITY": "1"}, {"TLLM_NUMA_AWARE_WORKER_AFFINITY": "0"}),
    ("accelerate", {"ACCELERATE_CPU_AFFINITY": "1"}, {"ACCELERATE_CPU_AFFINITY": "false"}),
    ("Open MPI 4", {"OMPI_MCA_orte_bound_at_launch": "1"}, {"OMPI_MCA_hwloc_base_binding_policy": "none"}),
    ("Intel MPI", {"I_MPI_PIN_INFO": "0"}, {"I_MPI_PIN_INFO": "0,1", "I_MPI_PIN": "off"}),
    ("Intel MPI", {"I_MPI_PIN": "1"}, {"I_MPI_PIN": "0"}),
    ("MPICH", {"HYDRA_USER_PROVIDED_BINDING": "1"}, {"PMI_RANK": "0", "MPI_LOCALRANKID": "0"}),
    ("Slurm", {"SLURM_CPU_BIND": "quiet,mask_cpu:0x1"}, {"SLURM_CPU_BIND": "quiet,none", "SLURM_STEP_ID": "0"}),
    ("Slurm", {"SLURM_CPU_BIND_TYPE": "mask_cpu:"}, {"SLURM_CPU_BIND_TYPE": "none", "SLURM_CPU_BIND": "cores"}),
    ("Slurm", {"SLURM_CPU_BIND": "cores"}, {"SLURM_CPU_BIND": "verbose"}),
    ("NeMo-RL", {"NRL_GPU_CPU_AFFINITY_FILE": "/x"},
     {"NRL_GPU_CPU_AFFINITY_FILE": "/x", "NRL_DISABLE_NUMA_BINDING": "1"}),
    ("Intel and LLVM OpenMP", {"KMP_AFFINITY": "compact"}, {"KMP_AFFINITY": "disabled"}),
    ("OpenMP", {"OMP_PROC_BIND": "close"}, {"OMP_PROC_BIND": "FALSE"}),
    ("GNU OpenMP", {"GOMP_CPU_AFFINITY": "0 3"}, {"GOMP_CPU_AFFINITY": " "}),
]  # fmt: skip


@pytest.mark.parametrize(("owner", "shown", "harmless"), SHOWN)
def test_a_switch_is_found_if_its_value_changes_a_binding(
    owner: str, shown: dict[str, str], harmless: dict[str, str]
) -> None:
    """And not with the value that turns it off."""
    (found,) = find({"PATH": "/bin", **shown})
    name, _, value = found.variable.partition("=")
    assert found.collision.owner == owner
    assert shown[name] == value
    assert list(find(harmless)) == []


def test_each_row_that_an_environment_can_show_is_tried() -> None:
    """A new row needs a case."""
    tried = {found.collision for _, shown, _ in SHOWN for found in find(shown)}
    assert tried == {row for row in COLLISIONS if row.trace is not None}


def test_explain_names_what_is_set_and_what_to_use() -> None:
    """In the table for people and in the JSON; nothing where nothing is set."""
    done = affinity("explain", KMP_AFFINITY="compact")
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if line.strip().startswith("KMP_AFFINITY=compact"))
    assert "Intel and LLVM OpenMP" in line
    assert "KMP_AFFINITY=disabled" in line
    (row,) = printed("explain", "--node", "0", KMP_AFFINITY="compact")["collisions"]
    assert row == {
        "variable": "KMP_AFFINITY=compact",
        **{key: getattr(next(find({"KMP_AFFINITY": "compact"})).collision, key)
           for key in ("switch", "owner", "effect", "use", "source")},
    }  # fmt: skip
    assert "changes a binding" not in called("explain", "--node", "0", KMP_AFFINITY="none").stdout


def test_this_environment_shows_nothing_of_another_machine() -> None:
    """Its workers are started elsewhere."""
    assert printed("explain", "--synthetic", "pack:2 core:2", "--node", "1", KMP_AFFINITY="compact")["collisions"] == []


def test_the_page_has_every_row() -> None:
    """In the order of the table, word for word."""
    page = (Path(__file__).parent.parent / "docs/reference/collisions.md").read_text()
    rows = [
        f"| `{row.switch}` | {row.owner} | {row.effect} | {row.use} | {'yes' if row.trace else 'no'} | {row.source} |"
        for row in COLLISIONS
    ]
    assert "\n".join(rows) in page
    assert page.count("\n| `") == len(rows)
