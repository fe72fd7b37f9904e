"""WHICH strategy: the rule table, as data. Each rule returns a verdict with its reason, and every verdict is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple  # for rows: an attrs class takes four times as long to create, in each worker

import attrs

from affinity.degradation import Degradation, messages
from affinity.errors import BindError, PluginError
from affinity.handoff import set_by_affinity
from affinity.host import Host
from affinity.kernel.mempolicy import MemoryMode
from affinity.launchers.launch import Launch, LaunchMode
from affinity.observation import Observation
from affinity.policies.placement import Placement
from affinity.registry import Registry
from affinity.settings import Settings
from affinity.strategies.strategy import AffinityStrategy
from affinity.support import Support, call_supports


class Verdict(NamedTuple):
    """One row of the table: its condition, whether it applies, and the reason."""

    rule: int
    condition: str
    applies: bool
    reason: str


@attrs.frozen
class Selection:
    """The chosen strategy's name, its fallbacks, the verdict of every rule, and the strategies that cannot act."""

    strategy: str
    reason: str
    fallbacks: tuple[str, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()

    def with_result(self, strategy: str, degradations: Iterable[Degradation]) -> Selection:
        """Return the selection with the strategy that acted, and the degradations appended to the reason."""
        suffix = "".join(f"; degraded: {message}" for message in messages(degradations))
        return attrs.evolve(self, strategy=strategy, reason=self.reason + suffix)


class SelectionInput(NamedTuple):
    """Input of a rule. `problem`: the reason if there is no placement."""

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
    """A condition in words, its test (with a reason in either case), and strategies in order of preference."""

    condition: str
    applies: Callable[[SelectionInput], Support]
    strategies: tuple[str, ...]


def select(
    observation: Observation, placement: Placement | None, strategies: Registry[AffinityStrategy], problem: str = ""
) -> Selection:
    """Return the selection of the first rule that applies.

    Raise PluginError if the only strategy named is missing or broken. Raise BindError if no strategy can act and one is
    named or binding is required.
    """
    given = SelectionInput(observation, placement, strategies, problem)
    verdicts: list[Verdict] = []
    chosen: Selection | None = None
    for number, rule in enumerate(RULES, 1):
        applies = rule.applies(given) if chosen is None else Support.no("an earlier rule decided")
        verdicts.append(Verdict(number, rule.condition, applies.ok, applies.reason))
        if applies.ok:
            chosen = _choose(rule, applies.reason, given)
    assert chosen is not None, "the last rule applies to every launch"
    return attrs.evolve(chosen, verdicts=tuple(verdicts))


def _choose(rule: Rule, reason: str, given: SelectionInput) -> Selection:
    """Return the strategies of the rule that can act; noop, with the reason, if automatic choice finds none."""
    named = given.settings.strategies
    names = rule.strategies or named
    able: list[str] = []
    skipped: list[tuple[str, str]] = []
    for name in names:
        try:
            strategy = given.strategies.get(name)
            given.settings.check(strategy.options)
            support = supports_launch(strategy, given.observation)
        except PluginError as error:
            if len(names) == 1 and named:
                raise
            support = Support.no(str(error))
        if support.ok:
            able.append(name)
        else:
            skipped.append((name, support.reason))
    skipped_reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped)
    if able:
        full_reason = f"{reason} ({skipped_reasons})" if skipped_reasons else reason
        return Selection(able[0], full_reason, tuple(able[1:]), skipped=tuple(skipped))
    if named or given.settings.required:
        remedy = (
            "name another strategy in AFFINITY_STRATEGY, or auto" if named else "AFFINITY_ENFORCE=required forbids it"
        )
        raise BindError(f"no strategy can act for launch mode {given.launch.mode.value}: {skipped_reasons}; {remedy}")
    return Selection("noop", f"{reason}, but no strategy can act: {skipped_reasons}", skipped=tuple(skipped))


def supports_launch(strategy: AffinityStrategy, observation: Observation) -> Support:
    """Return whether the strategy serves the launch mode and supports the launch."""
    launch = observation.launch
    if launch.mode not in strategy.launch_modes:
        modes = ", ".join(sorted(m.value for m in strategy.launch_modes))
        return Support.no(f"does not serve launch mode {launch.mode.value} (serves {modes})")
    return call_supports(strategy.supports, observation)


def _named(given: SelectionInput) -> Support:
    names = given.settings.strategies
    if names:
        return Support.yes(f"{given.settings.decided_by.get('strategies', 'the caller')} names {', '.join(names)}")
    return Support.no("no strategy is named")


def _switched_off(given: SelectionInput) -> Support:
    if given.settings.auto:
        return Support.no("automatic binding is on")
    if given.settings.nodes is not None or given.launch.nodes is not None:
        return Support.no("automatic binding is off, but a node is given")
    return Support.yes(f"automatic binding is off ({given.settings.decided_by.get('auto', 'by the caller')})")


def _nothing_to_gain(given: SelectionInput) -> Support:
    host, placement = given.host, given.placement
    if given.problem:
        return Support.yes(given.problem)
    if placement is None or (placement.cpus is None and placement.memory is None):
        return Support.yes(placement.reason if placement else "no placement")
    node_is_given = given.launch.nodes is not None or given.settings.nodes is not None
    if not node_is_given and len(host.topology.cpu_nodes) < 2 and placement.cpus == host.allowed_cpus:
        return Support.yes(f"one node with CPUs ({host.topology.cpu_nodes}): every CPU and page is local already")
    of_another = given.launch.mode is LaunchMode.ATTACH  # its policies are reported, thread by thread
    foreign = None if host.is_foreign or of_another else _foreign_mempolicy(host, placement)
    if foreign:
        return Support.yes(foreign)
    return Support.no(f"node {placement.nodes} is known and the process is not bound from outside")


def _foreign_mempolicy(host: Host, placement: Placement) -> str:
    """Return the reason if another program set the memory policy, "" if not."""
    try:
        policy = host.kernel.get_mempolicy()
    except OSError:
        return ""  # a seccomp filter refuses the call; the bind reports it
    if policy.mode is MemoryMode.DEFAULT or policy == placement.memory or set_by_affinity(policy, host.kernel):
        return ""
    return f"already bound from outside: memory policy {policy} is in force"


def _legacy_requested(given: SelectionInput) -> Support:
    if given.launch.mode is LaunchMode.ATTACH:
        return Support.no("another process is bound, which V1 could not")
    if given.settings.v2:
        return Support.no("SGLANG_NUMA_BIND_V2=0 is not set")
    return Support.yes("SGLANG_NUMA_BIND_V2=0")


def _started_by_us(given: SelectionInput) -> Support:
    mode, method = given.launch.mode.value, given.launch.start_method
    if method:
        return Support.yes(f"launch mode {mode}: affinity starts this process")
    return Support.no(f"launch mode {mode}: the process already runs")


def _running(given: SelectionInput) -> Support:
    if given.launch.mode is LaunchMode.ATTACH:
        return Support.no("launch mode attach: it is another process")
    return Support.yes(f"launch mode {given.launch.mode.value}: the process already runs")


def _attached(given: SelectionInput) -> Support:
    return Support.yes(f"launch mode {given.launch.mode.value}: another process, which already runs")


RULES: tuple[Rule, ...] = (
    Rule("a strategy is named", _named, ()),
    Rule("automatic binding is off and no node is given", _switched_off, ("noop",)),
    Rule("no node is known, nothing to gain, or bound from outside", _nothing_to_gain, ("noop",)),
    Rule("SGLANG_NUMA_BIND_V2=0", _legacy_requested, ("legacy",)),
    Rule("affinity starts the process (spawn, fork, command)", _started_by_us, ("numactl", "inherit")),
    Rule("the process already runs and binds itself", _running, ("libnuma", "inherit")),
    Rule("another process that already runs (attach)", _attached, ("external",)),
)
