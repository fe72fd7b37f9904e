"""Every installed plugin passes the contract that third parties inherit."""

from __future__ import annotations

from pathlib import Path

from affinity import Host, Settings
from affinity.launchers import Launcher
from affinity.plugins import Plugins
from affinity.policies import PlacementPolicy
from affinity.strategies import AffinityStrategy
from affinity.testing import LauncherContract, PolicyContract, StrategyContract

PLUGINS = Plugins()

#: Policies whose documentation promises each GPU CPUs of its own.
DISJOINT = {"exclusive", "interleaved", "single-core", "even"}

#: The variables of a worker of each launcher; `multiprocessing` sets none.
WORKERS = {
    "torchrun": {"TORCHELASTIC_RUN_ID": "x", "LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "8"},
    "deepspeed": {"CROSS_RANK": "0", "CROSS_SIZE": "1", "LOCAL_SIZE": "4", "LOCAL_RANK": "1"},
    "openmpi": {
        "OMPI_COMM_WORLD_SIZE": "16",
        "OMPI_COMM_WORLD_LOCAL_RANK": "2",
        "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
    },
    "hydra": {"PMI_RANK": "6", "PMI_SIZE": "16", "MPI_LOCALRANKID": "2", "MPI_LOCALNRANKS": "4"},
    "flux": {"FLUX_JOB_ID": "f2", "FLUX_TASK_LOCAL_ID": "1", "FLUX_JOB_SIZE": "4", "FLUX_JOB_NNODES": "1"},
    "slurm": {"SLURM_STEP_ID": "0", "SLURM_LOCALID": "1", "SLURM_NTASKS_PER_NODE": "2"},
    "multiprocessing": {},
    "ray": {"RAY_RAYLET_PID": "7", "RAY_JOB_ID": "01000000"},
}


def strategy_contract(name: str) -> type[StrategyContract]:
    """The contract of one installed strategy."""

    class Contract(StrategyContract):
        acts = name != "noop"

        def make(self) -> AffinityStrategy:
            return type(PLUGINS.strategies.get(name))()

    return Contract


def policy_contract(name: str) -> type[PolicyContract]:
    """The contract of one installed policy."""

    class Contract(PolicyContract):
        disjoint = name in DISJOINT

        def make(self) -> PlacementPolicy:
            return type(PLUGINS.policies.get(name))()

        def settings(self, host: Host, **more: str) -> Settings:
            if name == "explicit":  # the operator names a CPU for each GPU: here all get the first that is allowed
                gpus = [d for d in host.topology.pci_devices if d.vendor in (0x10DE, 0x1002)]
                more = {"AFFINITY_CPUS": "|".join([str(host.allowed_cpus.first())] * len(gpus)), **more}
            return super().settings(host, **more)

    return Contract


def launcher_contract(name: str) -> type[LauncherContract]:
    """The contract of one installed launcher."""

    class Contract(LauncherContract):
        worker = WORKERS[name]

        def make(self) -> Launcher:
            return type(PLUGINS.launchers.get(name))()

    return Contract


for _name in PLUGINS.strategies.names():
    globals()[f"TestStrategy_{_name}"] = strategy_contract(_name)
for _name in PLUGINS.policies.names():
    globals()[f"TestPolicy_{_name}"] = policy_contract(_name)
for _name in WORKERS:
    globals()[f"TestLauncher_{_name}"] = launcher_contract(_name)


def test_the_built_in_plugins_are_all_here() -> None:
    """An entry point that went missing would silently take its contract along."""
    assert {"noop", "numactl", "libnuma", "legacy", "inherit", "external"} <= set(PLUGINS.strategies.names())
    assert {"node", *DISJOINT} <= set(PLUGINS.policies.names())
    assert set(WORKERS) <= set(PLUGINS.launchers.names())


def table(contract: type) -> str:
    """The rows of docs/reference/contract.md: a case a row, in words."""
    cases = {name: case for name, case in vars(contract).items() if name.startswith("test_")}
    rows = [(name[5:].replace("_", " "), " ".join((case.__doc__ or "").split())) for name, case in cases.items()]
    assert all(words for _, words in rows)
    return "\n".join(f"| {name} | {words} |" for name, words in rows)


def test_the_reference_page_has_every_case() -> None:
    """In the order of the class, with the words of its docstring."""
    page = (Path(__file__).parent.parent / "docs/reference/contract.md").read_text()
    assert table(StrategyContract) in page
    assert table(PolicyContract) in page
    assert table(LauncherContract) in page
