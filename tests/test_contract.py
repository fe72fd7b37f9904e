"""Every installed plugin passes the contract that third parties inherit."""

from __future__ import annotations

from affinity import AffinityStrategy, Host, PlacementPolicy, Settings
from affinity.plugins import Plugins
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
