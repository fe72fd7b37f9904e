"""`StrategyContract` and `PolicyContract`: requirements of every plugin, as test classes to inherit.

    class TestMine(StrategyContract):
        def make(self):
            return MyStrategy()

pytest then runs every case on the machines of the class's `affinity_machines` marker. Built-in plugins pass the same
cases. The version of the contract is that of the interface (`AffinityStrategy`: 1, `PlacementPolicy`: 1).
"""

from __future__ import annotations

import contextlib
import errno
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import ClassVar, TypeVar, cast

import attrs
import pytest

from affinity import (
    AffinityError,
    BindError,
    CpuSet,
    Host,
    LaunchMode,
    NodeSet,
    PlacementError,
    Settings,
    SettingsError,
)
from affinity.host import NoKernel
from affinity.kernel import Kernel, MemoryMode, MemoryPolicy
from affinity.launchers import Launch
from affinity.policies import Observation, Placement, PlacementPolicy
from affinity.report.restore import SavedState
from affinity.strategies import RUNNING, AffinityStrategy, Support
from affinity.testing.fakehost import FakeHost
from affinity.testing.machines import Machine
from affinity.testing.simkernel import Executed, SimulatedKernel
from affinity.testing.state import (
    assert_unchanged,
    kernel_files_opened,
    one_cpu,
    state_of,
    variables,
    variables_read,
)

#: Two packages, many nodes, nodes without CPUs, sparse node numbers, a container with a narrow cpuset, one node.
MACHINES = ("dgx-h100", "dgx-a100", "gb200", "power9-ac922", "container-without-gpu-node", "vm-one-node")

_REFUSALS = [
    ("set_affinity", errno.EPERM),
    ("set_affinity", errno.EINVAL),
    ("set_mempolicy", errno.EPERM),
    ("set_mempolicy", errno.ENOSYS),
]


#: A case that is not for every plugin has `applies`; it is not collected for other plugins (see pytest_plugin).
Case = TypeVar("Case", bound=Callable[..., None])


def _for(*modes: LaunchMode) -> Callable[[Case], Case]:
    """Mark a case of the strategies that serve one of these modes."""

    def mark(case: Case) -> Case:
        case.applies = lambda contract: bool(contract().make().launch_modes & set(modes))  # type: ignore[attr-defined]
        return case

    return mark


def _where_promised(case: Case) -> Case:
    """Mark a case of the policies whose shares are disjoint."""
    case.applies = lambda contract: contract.disjoint  # type: ignore[attr-defined]
    return case


@pytest.mark.affinity_machines(*MACHINES)
class StrategyContract(ABC):
    """Test cases of a strategy, selected by its `launch_modes`.

    acts: False for a strategy that leaves a worker unchanged; then every case expects that nothing changes.
    """

    acts: ClassVar[bool] = True

    @abstractmethod
    def make(self) -> AffinityStrategy:
        """Return a new strategy."""

    @pytest.fixture(autouse=True)
    def _this_process_is_unchanged(self) -> Iterator[None]:
        """Check that all contact with the system goes through `host.kernel`, so this process is not changed."""
        from affinity.kernel.linux import THIS_PROCESS as kernel

        before = kernel.get_affinity(), kernel.get_mempolicy()
        yield
        assert (kernel.get_affinity(), kernel.get_mempolicy()) == before

    @pytest.fixture
    def usable(self, fake_host: FakeHost) -> FakeHost:
        """Return a fake host on which this strategy can act; skip the test, with the reason, if it cannot."""
        strategy = self.make()
        launch = Launch(min(strategy.launch_modes, key=lambda mode: mode.value))
        support = strategy.supports(Observation(fake_host.host, launch))
        if not support.ok:
            pytest.skip(f"it cannot act here: {support.reason}")
        return fake_host

    def test_it_declares_what_it_serves(self) -> None:
        """`launch_modes` is a non-empty frozenset of LaunchMode."""
        modes = self.make().launch_modes
        assert isinstance(modes, frozenset)
        assert modes
        assert all(isinstance(mode, LaunchMode) for mode in modes)

    @pytest.mark.parametrize("path", ["/usr/bin:/bin", "/nonexistent", ""])
    def test_supports_returns_a_reason_and_changes_nothing(self, machine: Machine, path: str) -> None:
        """On any machine, for any launch mode, with any programs installed."""
        fake = FakeHost(machine, environ={"PATH": path}, libnuma="libnuma is not here")
        for mode in LaunchMode:
            support = self.make().supports(Observation(fake.host, Launch(mode)))
            assert isinstance(support.ok, bool)
            assert support.ok or support.reason.strip()
        assert not fake.kernel.changes

    def test_supports_answers_for_the_observation_alone(self, fake_host: FakeHost) -> None:
        """Not for the variables, the CPU mask, /proc or /sys of the process that asks; for a planned machine too."""
        for host in (fake_host.host, attrs.evolve(fake_host.host, kernel=cast(Kernel, NoKernel()))):
            for mode in self.make().launch_modes - ({LaunchMode.ATTACH} if host.is_foreign else set()):
                _check_answer(partial(self.make().supports, Observation(host, Launch(mode))))

    @_for(*RUNNING)
    def test_bind_puts_the_placement_in_force(self, usable: FakeHost) -> None:
        """The kernel shows the placement's CPUs and memory policy for the thread that bound."""
        for placement in _placements(usable):
            fake = _again(usable)
            self.make().bind(placement, fake.observation)
            self._in_force(placement, fake)

    @_for(*RUNNING)
    def test_bind_touches_no_cpu_outside_the_placement(self, usable: FakeHost) -> None:
        """At no time, because threads started meanwhile would inherit the mask."""
        placement = _placements(usable)[0]
        self.make().bind(placement, usable.observation)
        masks = [c.arguments[1] for c in usable.kernel.changes if c.name == "set_affinity"]
        assert all(isinstance(mask, CpuSet) and mask <= (placement.cpus or mask) for mask in masks)

    @_for(*RUNNING)
    def test_binding_twice_is_the_same_as_once(self, usable: FakeHost) -> None:
        """For every thread of the process."""
        placement = _placements(usable)[0]
        usable.kernel.start_thread()
        self.make().bind(placement, usable.observation)
        once = usable.kernel.masks, usable.kernel.policies
        self.make().bind(placement, usable.observation)
        assert (usable.kernel.masks, usable.kernel.policies) == once

    @_for(*RUNNING)
    def test_undo_leaves_nothing_of_a_bind(self, usable: FakeHost) -> None:
        """Masks, policies and variables are restored; descriptors, signal handlers and the directory never changed."""
        usable.start_process(threads=2)
        usable.kernel.start_thread()
        for placement in _placements(usable):
            before, saved = state_of(usable), SavedState.of(usable.kernel)
            self.make().bind(placement, usable.observation)
            saved.restore(usable.kernel, left=dict(usable.kernel.environ))
            assert_unchanged(before, state_of(usable))

    @_for(*RUNNING)
    def test_bind_changes_only_what_the_placement_has(self, usable: FakeHost) -> None:
        """Without CPUs the masks stay, without memory the policy stays, without both nothing changes."""
        placement = _placements(usable)[0]
        fake = _again(usable)
        masks = fake.kernel.masks
        self.make().bind(attrs.evolve(placement, cpus=None), fake.observation)
        assert fake.kernel.masks == masks
        fake = _again(usable)
        policies = fake.kernel.policies
        self.make().bind(attrs.evolve(placement, memory=None), fake.observation)
        assert fake.kernel.policies == policies
        fake = _again(usable)
        self.make().bind(Placement(None, None), fake.observation)
        assert not fake.kernel.changes

    @_for(*RUNNING)
    def test_bind_skips_threads_with_a_mask_of_their_own(self, usable: FakeHost) -> None:
        """A thread that was pinned before the bind stays pinned."""
        placement = _placements(usable)[0]
        pinned = usable.kernel.start_thread()
        elsewhere = CpuSet([max(usable.host.allowed_cpus)])
        usable.kernel.set_affinity(pinned, elsewhere)
        self.make().bind(placement, usable.observation)
        assert usable.kernel.masks[pinned] == elsewhere

    @_for(*RUNNING)
    @pytest.mark.parametrize(("call", "number"), _REFUSALS)
    def test_a_refused_call_raises_an_error(self, usable: FakeHost, call: str, number: int) -> None:
        """OSError or BindError, unless the kernel shows the placement nevertheless."""
        placement = _narrow(usable)
        usable.kernel.refuse(call, number)
        try:
            self.make().bind(placement, usable.observation)
        except (OSError, BindError):
            return
        self._in_force(placement, usable)

    @_for(*RUNNING)
    def test_pages_that_cannot_be_moved_do_not_undo_the_binding(self, usable: FakeHost) -> None:
        """The masks and the memory policy are in force without the move."""
        placement = _placements(usable)[0]
        usable.kernel.refuse("migrate_pages", errno.EPERM)
        self.make().bind(placement, usable.observation)
        self._in_force(placement, usable)

    @_for(LaunchMode.SPAWN)
    def test_a_started_worker_is_bound_and_its_parent_is_unchanged(self, usable: FakeHost) -> None:
        """After `start` in the parent, the start of the worker, and `bind` in the worker."""
        for placement in _placements(usable):
            fake = _again(usable)
            fake.kernel.start_thread()
            before = state_of(fake)
            strategy = self.make()
            start = strategy.start(placement, _starting(fake, "spawn"))
            assert_unchanged(before, state_of(fake))
            worker = fake.start_worker(start)
            assert_unchanged(before, state_of(fake))
            strategy.bind(placement, worker.observation)
            self._in_force(placement, worker)

    @_for(LaunchMode.SPAWN)
    def test_a_start_that_fails_leaves_the_parent_unchanged(self, usable: FakeHost) -> None:
        """The error of the start is raised."""
        before = state_of(usable)
        start = self.make().start(_placements(usable)[0], _starting(usable, "spawn"))
        with pytest.raises(LookupError), start.around():
            raise LookupError("the start failed")
        assert_unchanged(before, state_of(usable))

    @_for(LaunchMode.SPAWN)
    @pytest.mark.parametrize(("call", "number"), _REFUSALS)
    def test_a_refused_start_leaves_the_parent_unchanged(self, usable: FakeHost, call: str, number: int) -> None:
        """Whether or not the start raises the refusal."""
        placement = _narrow(usable)
        before = state_of(usable)
        usable.kernel.refuse(call, number, when=lambda *a: a[-1] in (placement.cpus, placement.memory))
        with contextlib.suppress(OSError, BindError):
            usable.start_worker(self.make().start(placement, _starting(usable, "spawn")))
        assert_unchanged(before, state_of(usable))

    @_for(LaunchMode.SPAWN)
    def test_one_start_serves_several_threads_at_once(self, usable: FakeHost) -> None:
        """Two starts for two GPUs, each used by two threads, do not affect each other."""
        allowed = usable.host.allowed_cpus
        placements = [Placement(CpuSet([cpu]), None) for cpu in (allowed.first(), max(allowed))]
        strategy = self.make()
        starts = [strategy.start(placement, _starting(usable, "spawn")) for placement in placements]
        together = threading.Barrier(4, timeout=20)
        workers: dict[int, FakeHost] = {}

        def start(i: int) -> None:
            with usable.kernel.acting_as(usable.kernel.start_thread()):
                together.wait()
                workers[i] = usable.start_worker(starts[i % 2])
            strategy.bind(placements[i % 2], workers[i].observation)

        threads = [threading.Thread(target=start, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for i in range(4):
            self._in_force(placements[i % 2], workers[i])

    @_for(LaunchMode.COMMAND)
    def test_a_command_is_executed_unchanged_and_bound(self, usable: FakeHost) -> None:
        """The arguments and the environment of the command are those that were given."""
        argv = ["my server", "--", "--physcpubind=0", "-a", "", "two words"]
        for placement in [*_placements(usable), Placement(None, None)]:
            fake = _again(usable)
            start = self.make().start(placement, _starting(fake, "exec"))
            with pytest.raises(Executed) as became, start.around():
                fake.kernel.exec([*start.prefix, *argv], {"A": "1"})
            assert (became.value.failure, became.value.argv, became.value.environ) == ("", argv, {"A": "1"})
            self._in_force(placement, became.value)

    @_for(LaunchMode.ATTACH)
    def test_attach_puts_every_thread_of_another_process_on_the_placement(self, usable: FakeHost) -> None:
        """A memory policy other than `preferred` may be a BindError."""
        for placement in _placements(usable):
            fake = _again(usable)
            other = fake.start_process(threads=3)
            masks = other.masks
            try:
                self.make().bind(placement, _attaching(fake, other))
            except BindError:
                assert placement.memory is not None
                assert placement.memory.mode is MemoryMode.BIND
                assert other.masks == masks
                continue
            if self.acts and placement.cpus is not None:
                assert set(other.masks.values()) == {placement.cpus}

    @_for(LaunchMode.ATTACH)
    def test_attach_changes_the_masks_of_the_other_process_and_nothing_else(self, usable: FakeHost) -> None:
        """An undo restores these. The process that attaches, and every other one, is as it was."""
        other, placement = usable.start_process(threads=3), _placements(usable)[0]
        usable.start_process(threads=2)
        before = state_of(usable)
        self.make().bind(placement, _attaching(usable, other))
        masks = f"CPU masks of process {other.pid}"
        assert_unchanged(before, {**state_of(usable), masks: before[masks]})

    @_for(LaunchMode.ATTACH)
    def test_attach_skips_threads_with_a_mask_of_their_own(self, usable: FakeHost) -> None:
        """And does nothing the second time."""
        placement, other = _placements(usable)[0], usable.start_process(threads=2)
        pinned, elsewhere = other.start_thread(), CpuSet([max(usable.host.allowed_cpus)])
        other.set_affinity(pinned, elsewhere)
        for _ in range(2):
            self.make().bind(placement, _attaching(usable, other))
            assert other.masks[pinned] == elsewhere
            assert not self.acts or set(other.masks.values()) == {placement.cpus, elsewhere}

    @_for(LaunchMode.ATTACH)
    def test_attach_moves_the_pages_of_the_other_process_alone(self, usable: FakeHost) -> None:
        """If the placement has a memory policy; if they cannot be moved, the masks are in force without the move."""
        size = 1 << 20
        bystander = usable.start_process(size=size)
        placement, pages = _placements(usable)[0], bystander.pages_by_node
        for refused in (False, True):
            other = usable.start_process(size=size)
            if refused:
                usable.kernel.refuse("migrate_pages", errno.EPERM)
            self.make().bind(placement, _attaching(usable, other))
            if self.acts:
                assert set(other.masks.values()) == {placement.cpus}
                assert other.pages_by_node == (pages if refused else {placement.nodes.first(): size})
            assert bystander.pages_by_node == pages

    @_for(LaunchMode.ATTACH)
    @pytest.mark.parametrize("number", [errno.EPERM, errno.EINVAL, errno.ESRCH])
    def test_a_refused_attach_raises_an_error(self, usable: FakeHost, number: int) -> None:
        """OSError or BindError, with the other process unchanged; also if it has ended."""
        other = usable.start_process(threads=3)
        masks = other.masks
        if number == errno.ESRCH:
            other.end()
        else:
            usable.kernel.refuse("set_affinity", number)
        if self.acts:
            with pytest.raises((OSError, BindError)):
                self.make().bind(_narrow(usable), _attaching(usable, other))
        assert other.masks == (masks if number != errno.ESRCH else {})

    def _in_force(self, placement: Placement, fake: FakeHost | Executed) -> None:
        """Check that the calling thread has the placement, or that nothing was changed if the strategy does not act."""
        caller = fake.kernel.thread_id()
        if not self.acts:
            assert not [c for c in fake.kernel.changes if c.name != "exec"]
            return
        if placement.cpus is not None:
            assert fake.kernel.masks[caller] == placement.cpus
        if placement.memory is not None:
            assert fake.kernel.policies[caller] == placement.memory


@pytest.mark.affinity_machines(*MACHINES, "vm-two-nodes", "mi250x", "dgx-2")
class PolicyContract(ABC):
    """Test cases of a policy, each for every GPU of a machine.

    disjoint: whether the shares of different GPUs are disjoint. environ: the operator's variables that it needs.
    """

    disjoint: ClassVar[bool] = False
    environ: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def make(self) -> PlacementPolicy:
        """Return a new policy."""

    def settings(self, host: Host, **more: str) -> Settings:
        """Return the settings for this machine."""
        return Settings.from_environ({**self.environ, **more})

    def test_every_gpu_gets_allowed_cpus_or_an_error_with_a_message(self, fake_host: FakeHost) -> None:
        """A non-empty subset of the allowed CPUs, no preference, PlacementError, or SettingsError for its variables."""
        host = fake_host.host
        for placement in self._each(host, self.settings(host)):
            _check(placement, host)

    def test_it_is_pure(self, fake_host: FakeHost) -> None:
        """It calls no method of the kernel, so it can plan for another machine."""
        host = fake_host.host
        launches = _launches(host, self.settings(host))
        before = len(fake_host.kernel.log)
        for launch in launches:
            self._place(host, launch, self.settings(host))
        assert fake_host.kernel.log[before:] == ()

    def test_the_placement_does_not_depend_on_other_calls(self, fake_host: FakeHost) -> None:
        """Each rank calls it alone, so the order of calls and earlier calls do not change the result."""
        host = fake_host.host
        together = self._each(host, self.settings(host))
        launches = _launches(host, self.settings(host))
        alone = [self._place(host, launch, self.settings(host)) for launch in reversed(launches)]
        assert [str(a) for a in reversed(alone)] == [str(t) for t in together]

    @_where_promised
    def test_shares_do_not_overlap_where_that_is_promised(self, fake_host: FakeHost) -> None:
        """No CPU is in the shares of two GPUs."""
        host = fake_host.host
        taken = CpuSet()
        for placement in self._each(host, self.settings(host)):
            if isinstance(placement, Placement) and placement.cpus is not None:
                assert taken.isdisjoint(placement.cpus)
                taken |= placement.cpus

    def test_the_memory_policy_is_that_of_the_settings(self, fake_host: FakeHost) -> None:
        """`AFFINITY_MEMORY=none` leaves memory unchanged; with `bind`, no other mode is used."""
        host = fake_host.host
        for placement in self._each(host, self.settings(host, AFFINITY_MEMORY="none")):
            assert isinstance(placement, AffinityError) or placement.memory is None
        for placement in self._each(host, self.settings(host, AFFINITY_MEMORY="bind")):
            if isinstance(placement, Placement) and placement.memory is not None:
                assert placement.memory.mode is MemoryMode.BIND

    @pytest.mark.parametrize("keep", ["every other CPU", "one CPU", "the first half"])
    def test_a_narrow_cpuset_is_respected(self, machine: Machine, keep: str) -> None:
        """Also one with a half of each core, or without CPUs for some GPU."""
        online = list(FakeHost(machine).host.allowed_cpus)
        kept = {"every other CPU": online[::2], "one CPU": online[:1], "the first half": online[: -(-len(online) // 2)]}
        host = FakeHost(machine, allowed_cpus=CpuSet(kept[keep])).host
        for placement in self._each(host, self.settings(host)):
            _check(placement, host)

    def test_offline_cpus_are_not_used(self, machine: Machine) -> None:
        """On a machine where only the first hardware thread of each core is online."""
        offline = CpuSet(c.id for c in machine.topology().cpus.values() if c.id != c.core)
        host = FakeHost(attrs.evolve(machine, offline=offline)).host
        for placement in self._each(host, self.settings(host)):
            _check(placement, host)

    def test_a_worker_without_a_gpu_gets_a_placement_or_an_error(self, fake_host: FakeHost) -> None:
        """PlacementError or SettingsError, and no other exception."""
        host = fake_host.host
        _check(self._place(host, Launch(LaunchMode.INLINE), self.settings(host)), host)

    def _place(self, host: Host, launch: Launch, settings: Settings) -> Placement | AffinityError:
        try:
            return self.make().place(Observation(host, launch, settings))
        except (PlacementError, SettingsError) as impossible:
            return impossible

    def _each(self, host: Host, settings: Settings) -> list[Placement | AffinityError]:
        return [self._place(host, launch, settings) for launch in _launches(host, settings)]


def _check(placement: Placement | AffinityError, host: Host) -> None:
    if isinstance(placement, AffinityError):
        assert str(placement).strip(), "an error without a message"
        return
    assert placement.cpus is None or placement.cpus, "an empty mask: raise PlacementError instead"
    assert (placement.cpus or CpuSet()) <= host.allowed_cpus
    if placement.memory is not None:
        assert placement.memory.nodes <= host.allowed_nodes & host.topology.memory_nodes
        assert placement.memory.nodes or placement.memory.mode is MemoryMode.LOCAL
    assert placement.cpus is None or placement.reason.strip(), "a placement without a reason"


def _launches(host: Host, settings: Settings) -> list[Launch]:
    """Return a launch for each GPU, as its worker detects it."""
    from affinity.devices.inventory import Inventory
    from affinity.plugins import Plugins

    gpus = Inventory(host, settings, {}, Plugins().devices).devices
    return [
        Launch(LaunchMode.INLINE, gpus=(gpu,), machine_gpus=gpus, local_rank=rank, local_size=len(gpus))
        for rank, gpu in enumerate(gpus)
    ]


def _check_answer(supports: Callable[[], Support]) -> None:
    """Check that the answer of `supports` does not come from the process that runs the tests."""
    names = variables_read(supports)
    with kernel_files_opened() as opened:
        answer = supports()
    assert not opened, f"supports() opened {opened[0]}: ask the observation, whose host may be another machine"
    with one_cpu():
        alone = supports()
    assert alone == answer, f"supports() returned {answer}, and {alone} on one CPU: ask observation.host.allowed_cpus"
    for text in (None, "", "0", "1", "/nonexistent"):
        with variables(dict.fromkeys(names, text)):
            other = supports()
        assert other == answer, (
            f"supports() returned {answer}, and {other} with {text!r} for {', '.join(sorted(names))} in os.environ: "
            "read observation.host.kernel.environ or, for an option, observation.settings"
        )


def _placements(fake: FakeHost) -> list[Placement]:
    """Return placements on the last and the first allowed node with memory, and variants of that on the last."""
    host = fake.host
    both = [n for n in host.topology.nodes if n.cpus & host.allowed_cpus and n.id in host.allowed_nodes]
    found = []
    for node in (both[-1], both[0]):
        nodes = NodeSet([node.id])
        policy = MemoryPolicy(MemoryMode.PREFERRED, nodes)
        found.append(Placement(node.cpus & host.allowed_cpus, policy, nodes, "whole"))
    last = found[0]
    assert last.cpus is not None
    found.append(attrs.evolve(last, cpus=CpuSet([last.cpus.first()]), reason="one CPU"))
    bind = MemoryPolicy(MemoryMode.BIND, last.nodes)
    return [
        *found,
        attrs.evolve(last, memory=bind, reason="bound"),
        attrs.evolve(last, memory=None, reason="no memory"),
    ]


def _starting(fake: FakeHost, method: str) -> Observation:
    """Return the observation for a strategy's `start`."""
    mode = LaunchMode.COMMAND if method == "exec" else LaunchMode.SPAWN
    return Observation(fake.host, Launch(mode, start_method=method))


def _attaching(fake: FakeHost, other: SimulatedKernel) -> Observation:
    """Return the observation for a strategy's `bind` of another process."""
    return Observation(fake.host, Launch(LaunchMode.ATTACH), target=other)


def _narrow(fake: FakeHost) -> Placement:
    """Return a placement that is not in force before the bind: a single CPU and a memory policy."""
    return _placements(fake)[2]


def _again(fake: FakeHost) -> FakeHost:
    """Return a new process on the same machine, with the same cpuset."""
    return FakeHost(fake.topology, allowed_cpus=fake.kernel.cpuset, allowed_nodes=fake.kernel.allowed_memory)
