"""`Watch`: bind the processes of a machine's GPUs as they come. A loop of what `affinity ps` and `attach` do."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Sequence

import attrs

from affinity.degradation import messages
from affinity.devices.use import GpuUse, ProcessFilter
from affinity.errors import AffinityError
from affinity.external import attach_unlogged, find_process, prepare
from affinity.report.locality import Locality
from affinity.report.processes import GpuProcess, GpuProcesses

_log = logging.getLogger("affinity.watch")

#: Most processes open their GPU soon after they start. One that has none yet is looked at again after a quarter of its
#: age, and after five minutes at most. A driver that lists processes is asked about all of them in every round.
_SHARE_OF_AGE, _LONGEST = 0.25, 300.0

_NAME_WIDTH = 40


@attrs.define
class _Seen:
    """A process that was listed.

    number: as the kernel listed it. started: seconds of the monotonic clock. due: when it is looked at next.
    undecided: a driver lists it, but nothing can be done about it yet. identity, logged: of the line that was logged.
    """

    number: int
    started: float
    due: float = 0.0
    undecided: bool = False
    identity: str = ""
    logged: str = ""


@attrs.define(eq=False)
class Watch:
    """Binds each process of a user (None: of all users) once, and logs one line for each."""

    reader: GpuProcesses
    user: int | None
    dry_run: bool = False
    clock: Callable[[], float] = time.monotonic
    _seen: dict[int, _Seen] = attrs.field(factory=dict, init=False)
    _notes: set[str] = attrs.field(factory=set, init=False)

    def run(self, interval: float, ended: Callable[[float], bool]) -> None:
        """Repeat rounds until `ended(seconds)` is true, which waits so long: between rounds and between processes."""
        for note in self.reader.notes:
            self._note(note)
        while not (self.round(ended) or ended(interval)):
            pass

    def round(self, ended: Callable[[float], bool] = lambda seconds: False) -> bool:
        """Look at what is new, and bind what is misplaced. Return whether it was ended."""
        by_pid: dict[int, list[GpuUse]] = {}
        try:
            now = self._list()
            due = {pid for pid, seen in self._seen.items() if seen.due <= now}
            asked = {pid for pid, seen in self._seen.items() if seen.due < math.inf and not seen.undecided} | due
            uses, notes = self.reader.uses(ProcessFilter(asked, due))
            for pid in due:
                self._seen[pid].due = now + min((now - self._seen[pid].started) * _SHARE_OF_AGE, _LONGEST)
            for note in notes:
                self._note(note)
            for use in uses:
                if use.pid in self._seen and use.is_here:
                    by_pid.setdefault(use.pid, []).append(use)
        except Exception as failed:  # the loop outlives every mistake, also of a plugin
            self._note(f"{type(failed).__name__}: {failed}")
        for pid, theirs in by_pid.items():
            if ended(0):
                return True
            self._look_at(self._seen[pid], theirs)
        return False

    def _list(self) -> float:
        """Take in the processes that are there; return when that was."""
        kernel, now = self.reader.host.kernel, self.clock()
        listed = kernel.pids()
        for pid in self._seen.keys() - listed.keys():
            del self._seen[pid]
        for pid, number in listed.items():
            seen = self._seen.get(pid)
            if seen is not None and seen.number == number:
                continue
            new = _Seen(number, now, due=math.inf if pid == kernel.pid else 0.0)
            try:
                process = kernel.process(pid)
                new.started -= process.age()
                if seen is not None and seen.identity == process.identity():  # the number alone is another
                    new = attrs.evolve(seen, number=number)
            except PermissionError:  # a kernel thread
                new.due = math.inf
            except OSError:  # it has ended
                continue
            self._seen[pid] = new
        return now

    def _look_at(self, seen: _Seen, uses: Sequence[GpuUse]) -> None:
        try:
            rows = self.reader.rows(uses, user=self.user)
        except Exception as failed:
            self._note(f"{type(failed).__name__}: {failed}")
            rows = []
        seen.undecided = not rows or rows[0].assessment.locality is Locality.UNKNOWN
        if not rows:  # another user's, or it has ended
            return
        row = rows[0]
        if not seen.undecided:
            seen.due, seen.identity = math.inf, row.identity
        level, text = self._decide(row)
        if seen.logged != text:
            seen.logged, seen.identity = text, row.identity
            name = row.worker or os.path.basename("".join(row.command[:1]))
            _log.log(level, "affinity: process %d (%s, %r): %s", row.pid, row.user, name[:_NAME_WIDTH], text)

    def _decide(self, row: GpuProcess) -> tuple[int, str]:
        """Bind a process that is misplaced and that nothing else has bound; return what came of it, for the log."""
        why, bound = row.left_alone, row.bound
        if row.assessment.locality is Locality.LOCAL:
            return logging.INFO, why
        if not why and bound is not None and bound.in_force and not bound.inherited:
            why = f"{row.assessment.locality.value}, bound already by strategy {bound.strategy}"
        if why:
            return logging.WARNING, "; ".join(filter(None, (f"left alone: {why}", row.assessment.remedy)))
        gpus = [str(gpu.pci) for gpu in row.gpus]
        host, settings = self.reader.host, self.reader.settings
        try:
            if self.dry_run:
                process = find_process(row.pid, host, row.identity)
                made = prepare(process, host, gpu=gpus, node=None, settings=settings)
                summary = made.planned.problem or (made.planned.placement and made.planned.placement.summary)
                text, problems = f"would be bound: {summary}, for {', '.join(gpus)}", made.obstacles
            else:
                report = attach_unlogged(
                    row.pid, gpu=gpus, node=None, settings=settings, host=host, widen=False, identity=row.identity
                )
                text, problems = report.summary, report.degradations
                text = f"not bound: {text}" if report.strategy == "noop" else text
        except AffinityError as refused:
            return logging.WARNING, f"not bound: {refused}"
        except Exception as failed:
            return logging.ERROR, f"not bound: {type(failed).__name__}: {failed}"
        level = logging.WARNING if problems else logging.INFO
        return level, "; degraded: ".join((text, *messages(problems)))

    def _note(self, note: str) -> None:
        """Log what holds for the machine, once."""
        if note not in self._notes:
            self._notes.add(note)
            _log.warning("affinity: %s", note)
