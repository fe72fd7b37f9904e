"""Every installed plugin passes the contract that third parties inherit."""

from __future__ import annotations

from pathlib import Path

from affinity import Host, Settings
from affinity.plugins import Plugins
from affinity.policies import PlacementPolicy
from affinity.strategies import AffinityStrategy
from affinity.testing import PolicyContract, StrategyContract

PLUGINS = Plugins()

#: Policies whose documentation promises each GPU CPUs of its own.
DISJOINT = {"exclusive", "interleaved", "single-core", "even"}


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


for _name in PLUGINS.strategies.names():
    globals()[f"TestStrategy_{_name}"] = strategy_contract(_name)
for _name in PLUGINS.policies.names():
    globals()[f"TestPolicy_{_name}"] = policy_contract(_name)


def test_the_built_in_plugins_are_all_here() -> None:
    """An entry point that went missing would silently take its contract along."""
    assert {"noop", "numactl", "libnuma", "legacy", "inherit"} <= set(PLUGINS.strategies.names())
    assert {"node", *DISJOINT} <= set(PLUGINS.policies.names())


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
