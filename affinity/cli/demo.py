"""`affinity demo`: start real workers, bind them, and show the state of each as read from the kernel."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import click

from affinity.cli import _options, _output, _validate

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    Shape = dict[str, Any]

#: Seconds for a worker to bind, build its scheduler and send its report; it needs less than one.
TIMEOUT = 60.0
_TIMED_OUT = f"the worker did not answer within {TIMEOUT:g} s"


class Scheduler:
    """Model of an engine's scheduler: a thread, and memory that it is the first to touch."""

    BYTES = 32 << 20

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._stop.wait)
        self._thread.start()
        self.pool = bytearray(self.BYTES)
        for page in range(0, self.BYTES, 4096):
            self.pool[page] = 1

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


def run_worker(place: dict[str, Any]) -> Shape:
    """Bind this process, build a scheduler, and return the report. place: the arguments of `bind`."""
    import affinity
    from affinity.errors import AffinityError
    from affinity.render import serialize
    from affinity.report.observed import Observed

    try:
        report = affinity.bind(**place)
    except AffinityError as error:
        return {"error": str(error)}
    scheduler = Scheduler()
    try:
        return serialize.report(report, Observed.read(affinity.Host.live().kernel))
    finally:
        scheduler.close()


def spawned(answer: Connection) -> None:
    """Run a worker that received its placement from `spawning()`, and send its report."""
    answer.send(run_worker({}))


def inline() -> None:
    """Run a worker that a plain subprocess started: read its place from stdin, print its report."""
    import json

    print(json.dumps(run_worker(json.load(sys.stdin))))


@click.command()
@_options.as_json
def command(*, as_json: bool) -> None:
    """Start a real worker for each GPU, and show its state as read from the kernel.

    The workers are started by multiprocessing inside affinity.spawning(). One more, started as a plain subprocess,
    binds itself. Each worker is bound before it builds a small scheduler. On a machine without GPUs, a placeholder
    GPU is used on each node that has CPUs.
    """
    from affinity.host import Host
    from affinity.observe import observe
    from affinity.plugins import Plugins
    from affinity.render import serialize

    host = Host.live()
    observation = observe(Plugins(), gpu="all", settings=_validate.settings(), host=host)
    places: list[tuple[str, dict[str, Any]]] = [
        (f"GPU {gpu}", {"gpu": str(gpu.pci)}) if gpu.pci is not None else (f"{gpu}", {"node": gpu.node})
        for gpu in observation.launch.gpus
    ]
    stand_ins = not any("gpu" in place for _, place in places)
    if not places:
        nodes = host.topology.nodes_of(host.allowed_cpus)
        places = [(f"placeholder GPU on node {node}", {"node": node}) for node in nodes]
    reports = [{"worker": name, "started_by": "multiprocessing", **_spawn(place)} for name, place in places]
    reports += [{"worker": name, "started_by": "a plain subprocess", **_inline(place)} for name, place in places[-1:]]
    if as_json:
        notes = list(observation.launch.notes)
        _output.json({"version": serialize.VERSION, "stand_ins": stand_ins, "workers": reports, "notes": notes})
    else:
        _print(reports, stand_ins)
        _output.lines("note", observation.launch.notes)
    if any("error" in report for report in reports):
        sys.exit(3)


def _print(reports: list[Shape], stand_ins: bool) -> None:
    if stand_ins:
        print("No GPU is visible: a placeholder GPU is used on each node that has CPUs.\n")
    bound = [r for r in reports if "error" not in r]
    _output.table(
        "State of each worker as read from the kernel, after its scheduler was built",
        ("worker", "started by", "strategy", "bound", "CPUs", "memory policy", "threads within", "own pages local"),
        [(r["worker"], r["started_by"], r["strategy"], _when(r), *_observed(r["observed"])) for r in bound],
        optional=("own pages local", "started by", "bound"),
    )
    for report in reports:
        why = f"{report['strategy']}: in force from its start" if report.get("already") else ""
        result = report.get("error") or why or f"{report['strategy']}: {report['reason']}"
        _output.line(f"{report['worker']}, started by {report['started_by']}: {result}")
        _output.lines("  degraded", (": ".join(filter(None, d.values())) for d in report.get("degradations", ())))


def _when(report: Shape) -> str:
    if report["strategy"] == "noop":
        return "unchanged"
    return "from its start" if report["already"] else f"{report['seconds_since_start']:.2f} s after its start"


def _observed(now: Shape) -> tuple[object, ...]:
    memory, share, within = now["memory"], now["local_share"], now["threads_within"]
    nodes = ",".join(map(str, memory["nodes"])) if memory else ""
    return (
        now["cpus"],
        (memory["mode"] + (f":{nodes}" if nodes else "")) if memory else "unknown",
        None if within is None else f"{within} of {now['threads']}",
        None if share is None else f"{share:.0%}",
    )


def _spawn(place: dict[str, Any]) -> Shape:
    """Return the report of a worker that multiprocessing's spawn method starts bound."""
    import multiprocessing

    import affinity

    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=spawned, args=(send,), daemon=True)
    with affinity.spawning(**place):
        process.start()
    send.close()  # so that `receive` is at end of file if the worker dies
    try:
        if not receive.poll(TIMEOUT):
            return {"error": _TIMED_OUT}
        answer: Shape = receive.recv()
        return answer
    except EOFError:
        process.join()
        return {"error": f"the worker ended without an answer, exit status {process.exitcode}"}
    finally:
        process.kill()
        process.join()


def _inline(place: dict[str, Any]) -> Shape:
    """Return the report of a worker that a plain subprocess starts, and that binds itself."""
    import json

    body = f"from {__name__} import inline; inline()"
    try:
        done = subprocess.run(
            [sys.executable, "-c", body],
            input=json.dumps(place),
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"error": _TIMED_OUT}
    if done.returncode:
        return {"error": f"the worker ended with exit status {done.returncode}: {done.stderr.strip()[-500:]}"}
    answer: Shape = json.loads(done.stdout)
    return answer
