"""WHICH strategy: the rule table, as data. Each rule gives a verdict in words, and the verdicts are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple  # of rows: an attrs class takes four times as long to make, in each worker

import attrs

from affinity.errors import BindError, PluginError
from affinity.handoff import set_by_affinity
from affinity.host import Host
from affinity.kernel.mempolicy import MemoryMode
from affinity.launchers.launch import Launch
from affinity.observation import Observation
from affinity.policies.placement import Placement
from affinity.registry import Registry
from affinity.settings import Settings
from affinity.strategies.strategy import AffinityStrategy
from affinity.support import Support, call_supports


class Verdict(NamedTuple):
    """One line of the table: what it asks, whether it applied, and why (not)."""

    rule: int
    condition: str
    applies: bool
    reason: str


@attrs.frozen
class Selection:
    """The chosen strategy's name, those to fall back on, and the verdict of every rule."""

    strategy: str
    reason: str
    fallbacks: tuple[str, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()

    def with_result(self, strategy: str, degradations: Sequence[object]) -> Selection:
        """The selection as it turned out: the strategy that was left standing, and what was given up for it."""
        told = "".join(f"; given up: {g}" for g in degradations)
        return attrs.evolve(self, strategy=strategy, reason=self.reason + told)


class SelectionInput(NamedTuple):
    """What a rule may look at. `problem`: why there is no placement."""

    observation: Observation
    placement: Placement | None
    strategies: Registry[AffinityStrategy]
    problem: str = ""

    @property
    def host(self) -> Host:
        return self.observation.host

    @property
    def launch(self) -> Launch:
        return self.observation.launch

    @property
    def settings(self) -> Settings:
        return self.observation.settings


class Rule(NamedTuple):
    """A condition in words, its test (the reason is told either way), and strategies in order of preference."""

    condition: str
    applies: Callable[[SelectionInput], Support]
    strategies: tuple[str, ...]


def select(
    observation: Observation, placement: Placement | None, strategies: Registry[AffinityStrategy], problem: str = ""
) -> Selection:
    """Run the table from the top; the first rule that applies chooses.

    Raises PluginError for a named strategy that is missing or broken, and BindError where the only strategy
    named cannot act for this launch.
    """
    case = SelectionInput(observation, placement, strategies, problem)
    verdicts: list[Verdict] = []
    chosen: Selection | None = None
    for number, rule in enumerate(RULES, 1):
        answer = rule.applies(case) if chosen is None else Support.no("an earlier rule decided")
        verdicts.append(Verdict(number, rule.condition, answer.ok, answer.reason))
        if answer.ok:
            chosen = _choose(rule, answer.reason, case)
    assert chosen is not None, "the last rule applies to every launch"
    return attrs.evolve(chosen, verdicts=tuple(verdicts))


def _choose(rule: Rule, reason: str, case: SelectionInput) -> Selection:
    """The strategies of the rule that can act here; noop, saying so, where automatic choice finds none."""
    named = case.settings.strategies
    names = rule.strategies or named
    able: list[str] = []
    skipped: list[tuple[str, str]] = []
    for name in names:
        try:
            strategy = case.strategies.get(name)
            case.settings.check(strategy.options)
            answer = supports_launch(strategy, case.observation)
        except PluginError as broken:
            if len(names) == 1 and named:
                raise
            answer = Support.no(str(broken))
        if answer.ok:
            able.append(name)
        else:
            skipped.append((name, answer.reason))
    why = "; ".join(f"{name}: {reason}" for name, reason in skipped)
    if able:
        told = f"{reason} ({why})" if why else reason
        return Selection(able[0], told, tuple(able[1:]), skipped=tuple(skipped))
    if named or case.settings.required:
        remedy = (
            "name another strategy in AFFINITY_STRATEGY, or auto" if named else "AFFINITY_ENFORCE=required forbids it"
        )
        raise BindError(f"no strategy can act for launch mode {case.launch.mode.value}: {why}; {remedy}")
    return Selection("noop", f"{reason}, but no strategy can act: {why}", skipped=tuple(skipped))


def supports_launch(strategy: AffinityStrategy, observation: Observation) -> Support:
    """The strategy's own answer, after its launch modes."""
    launch = observation.launch
    if launch.mode not in strategy.launch_modes:
        modes = ", ".join(sorted(m.value for m in strategy.launch_modes))
        return Support.no(f"does not serve launch mode {launch.mode.value} (serves {modes})")
    return call_supports(strategy.supports, observation)


def _named(case: SelectionInput) -> Support:
    names = case.settings.strategies
    if names:
        return Support.yes(f"{case.settings.decided_by.get('strategies', 'the caller')} names {', '.join(names)}")
    return Support.no("no strategy is named")


def _switched_off(case: SelectionInput) -> Support:
    if case.settings.auto:
        return Support.no("automatic binding is on")
    if case.settings.nodes is not None or case.launch.nodes is not None:
        return Support.no("automatic binding is off, but a node is given")
    return Support.yes(f"automatic binding is off ({case.settings.decided_by.get('auto', 'by the caller')})")


def _nothing_to_gain(case: SelectionInput) -> Support:
    host, placement = case.host, case.placement
    if case.problem:
        return Support.yes(case.problem)
    if placement is None or (placement.cpus is None and placement.memory is None):
        return Support.yes(placement.reason if placement else "no placement")
    call_supports = case.launch.nodes is not None or case.settings.nodes is not None
    if not call_supports and len(host.topology.cpu_nodes) < 2 and placement.cpus == host.allowed_cpus:
        return Support.yes(f"one node with CPUs ({host.topology.cpu_nodes}): every CPU and page is local already")
    outside = None if host.is_foreign else _foreign_mempolicy(host, placement)
    if outside:
        return Support.yes(outside)
    return Support.no(f"node {placement.nodes} is known and nothing has bound this process from outside")


def _foreign_mempolicy(host: Host, placement: Placement) -> str:
    try:
        policy = host.kernel.get_mempolicy()
    except OSError:
        return ""  # a filter refuses the question; the binding itself will tell
    if policy.mode is MemoryMode.DEFAULT or policy == placement.memory or set_by_affinity(policy, host.kernel):
        return ""
    return f"already bound from outside: memory policy {policy} is in force"


def _legacy_requested(case: SelectionInput) -> Support:
    if case.settings.v2:
        return Support.no("SGLANG_NUMA_BIND_V2 does not ask for the first generation")
    return Support.yes("SGLANG_NUMA_BIND_V2=0")


def _started_by_us(case: SelectionInput) -> Support:
    mode, method = case.launch.mode.value, case.launch.start_method
    if method:
        return Support.yes(f"launch mode {mode}: affinity starts this process")
    return Support.no(f"launch mode {mode}: the process already runs")


def _running(case: SelectionInput) -> Support:
    return Support.yes(f"launch mode {case.launch.mode.value}: the process already runs")


RULES: tuple[Rule, ...] = (
    Rule("a strategy is named", _named, ()),
    Rule("automatic binding is off and no node is given", _switched_off, ("noop",)),
    Rule("no node is known, nothing to gain, or bound from outside", _nothing_to_gain, ("noop",)),
    Rule("the first generation is asked for", _legacy_requested, ("legacy",)),
    Rule("affinity starts the process (spawn, fork, command)", _started_by_us, ("numactl", "inherit")),
    Rule("the process already runs", _running, ("libnuma", "inherit")),
)
