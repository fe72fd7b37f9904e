"""What the plugins of engines share: errors that are logged, functions that are replaced, and a module's import."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
from pathlib import Path

import pytest

from affinity.errors import BindError, SettingsError
from affinity.integrations import engine
from affinity.integrations.engine import Hook, errors_logged, fits, is_on, replace, starting_worker, when_imported
from affinity.testing import FakeHost

LOGGER = "affinity.integrations"


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer of an earlier test."""
    engine._is_on.cache_clear()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An engine's package, importable and not imported."""
    package = tmp_path / "some_engine"
    package.mkdir()
    (package / "__init__.py").write_text('__version__ = "1.2"\n')
    (package / "start.py").write_text(
        "def start(config, rank, more=0): return (config, rank, more)\n\n"
        "class Worker:\n    def init(self, rank): return rank\n"
    )
    (package / "needs.py").write_text("import some_library_that_is_not_installed\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "some_engine"
    for name in [name for name in sys.modules if name.partition(".")[0] == "some_engine"]:
        del sys.modules[name]


def test_an_error_is_a_line_with_its_consequence(caplog: pytest.LogCaptureFixture) -> None:
    """An error of this package by its message; another one with its traceback, to be reported."""
    for error in (BindError("no node"), ValueError("a defect")):
        with errors_logged("the worker starts unbound"):
            raise error
    own, other = caplog.records
    assert (own.levelname, own.message) == ("ERROR", "affinity: the worker starts unbound: no node")
    assert own.exc_info is None
    assert other.message.startswith("affinity: the worker starts unbound; report this error")
    assert other.exc_info is not None


@pytest.mark.parametrize("environ", [
    {"AFFINITY_ENFORCE": "required"},
    {"AFFINITY_ENFORCE": "required", "AFFINITY_MEMORY": "no such"},
    {"SGLANG_CRASH_ON_NUMA_BIND_FAILURE": "1"},
], ids=str)  # fmt: skip
def test_an_error_is_raised_under_required(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if another variable does not parse."""
    for name, text in environ.items():
        monkeypatch.setenv(name, text)
    with pytest.raises(ValueError, match="a defect"), errors_logged("the worker starts unbound"):
        raise ValueError("a defect")


def test_a_malformed_enforce_is_not_required(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Its own error is logged."""
    monkeypatch.setenv("AFFINITY_ENFORCE", "perhaps")
    assert not is_on("an engine")
    assert "affinity: an engine runs unbound: AFFINITY_ENFORCE='perhaps' does not parse" in caplog.text


def test_a_setting_that_changes_is_obeyed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, and in a simulated one that is installed for a while; an error too."""
    assert is_on("an engine")
    monkeypatch.setenv("AFFINITY_AUTO", "0")
    assert not is_on("an engine")
    with FakeHost(environ={"AFFINITY_AUTO": "1"}).installed():
        assert is_on("an engine")
    monkeypatch.setenv("AFFINITY_AUTO", "perhaps")
    assert not is_on("an engine")
    monkeypatch.delenv("AFFINITY_AUTO")
    assert is_on("an engine")


def test_that_it_is_on_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """With the variable that turns it off; not by a worker, which has no other processes."""
    caplog.set_level(logging.INFO, LOGGER)
    assert is_on("an engine")
    assert is_on("an engine", "its server is left alone")
    assert is_on("an engine", "its server is left alone")
    assert [r.message for r in caplog.records] == [
        "affinity: an engine: each worker is bound to the NUMA node of its GPU; its server is left alone; "
        "AFFINITY_AUTO=0 turns it off"
    ]


@pytest.mark.parametrize(("environ", "on"), [
    ({"AFFINITY_AUTO": "0"}, False),
    ({"SGLANG_AUTO_NUMA_BIND": "0"}, True),  # SGLang's own binding is off
    ({"SGLANG_AUTO_NUMA_BIND": "0", "AFFINITY_AUTO": "0"}, False),
], ids=str)  # fmt: skip
def test_one_variable_turns_it_off(
    environ: dict[str, str], on: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And then nothing is logged."""
    caplog.set_level(logging.INFO, LOGGER)
    for name, text in environ.items():
        monkeypatch.setenv(name, text)
    assert is_on("an engine", "its server is left alone") is on
    assert bool(caplog.records) is on


def test_a_malformed_setting_under_required_is_raised_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine may swallow the first."""
    monkeypatch.setenv("AFFINITY_ENFORCE", "required")
    monkeypatch.setenv("AFFINITY_MEMORY", "no such")
    for _ in range(2):
        with pytest.raises(SettingsError, match="AFFINITY_MEMORY='no such' does not parse"):
            is_on("an engine")


def test_a_worker_starts_also_if_it_cannot_be_bound(caplog: pytest.LogCaptureFixture) -> None:
    """The block is run, and an error of its own is not swallowed."""
    ran = []
    with starting_worker(gpu="GPU-none"):
        ran.append(True)
    assert ran == [True]
    assert "affinity: the worker starts unbound: GPU 'GPU-none' is not here" in caplog.text
    with pytest.raises(KeyError), starting_worker(gpu="GPU-none"):
        raise KeyError


def hook(name: str = "start", *parameters: str, module: str = "some_engine.start") -> Hook:
    return Hook(module, name, parameters or ("config", "rank"), "workers are unbound")


def test_a_function_is_replaced_once(module: str) -> None:
    """A method too; the replacement has the name and the signature of the original."""
    from some_engine import start

    for _ in range(2):
        assert replace(hook(), lambda original: lambda *given: ["around", original(*given)])
        assert replace(hook("Worker.init", "self", "rank"), lambda original: lambda *given: -original(*given))
    assert start.start("c", 1) == ["around", ("c", 1, 0)]
    assert start.start.__name__ == "start"
    assert start.Worker().init(3) == -3


@pytest.mark.parametrize(("moved", "found"), [
    (hook("start", "rank", "config"), "some_engine.start.start takes (config, rank), (rank, config) was expected"),
    (hook("begin"), "some_engine.start.begin is missing, (config, rank) was expected"),
    (hook("Worker.begin", "self"), "some_engine.start.Worker.begin is missing"),
    (hook("Gone.begin", "self"), "some_engine.start.Gone.begin is missing"),
    (hook(module="some_engine.gone"), "some_engine.gone.start is missing"),
], ids=["signature", "function", "method", "class", "module"])  # fmt: skip
def test_a_moved_function_is_a_warning_and_stays(
    module: str, moved: Hook, found: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the engine's version and what is lost; an error under `required`."""
    from some_engine import start

    before = start.start
    assert not replace(moved, lambda original: lambda *given: None)
    assert start.start is before
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert f"affinity: in some_engine 1.2, {found}" in record.message
    assert ": workers are unbound; upgrade numa-affinity, or start the engine with `affinity run`" in record.message
    monkeypatch.setenv("AFFINITY_ENFORCE", "required")
    with pytest.raises(BindError, match="was expected: workers are unbound"):
        fits(moved)


def test_a_moved_function_is_none_where_it_is_off(
    module: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No function is replaced, nothing is logged, and `required` requires nothing."""
    monkeypatch.setenv("AFFINITY_AUTO", "0")
    monkeypatch.setenv("AFFINITY_ENFORCE", "required")
    for name in ("start", "begin"):
        assert not replace(hook(name), lambda original: lambda *given: None)
    assert caplog.records == []


def test_a_module_that_needs_what_is_not_installed_is_not_moved(module: str) -> None:
    """Ray's part of an engine, where Ray is not installed."""
    with pytest.raises(ModuleNotFoundError, match="some_library_that_is_not_installed"):
        fits(hook(module="some_engine.needs"))


def test_a_function_is_called_after_an_import(module: str) -> None:
    """Once, when the module has run; at once if it has been imported; the other imports are as they were."""
    finders = list(sys.meta_path)
    called: list[bool] = []
    when_imported("some_engine.start", lambda: called.append(hasattr(sys.modules["some_engine.start"], "start")))
    import some_engine

    assert called == []
    import some_engine.start

    assert called == [True]
    assert sys.meta_path == finders
    when_imported("some_engine.start", lambda: called.append(False))
    assert called == [True, False]
    assert some_engine.start.start("c", 1) == ("c", 1, 0)


def test_a_module_that_is_looked_for_and_not_imported_is_waited_for(module: str) -> None:
    """As by a check of what is installed; and one whose first import fails."""
    called: list[bool] = []
    finders = list(sys.meta_path)
    when_imported("some_engine.start", lambda: called.append(True))
    assert importlib.util.find_spec("some_engine.start") is not None
    when_imported("some_engine.needs", lambda: called.append(False))
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("some_engine.needs")
    assert called == []
    sys.modules["some_library_that_is_not_installed"] = sys
    try:
        importlib.import_module("some_engine.needs")
    finally:
        del sys.modules["some_library_that_is_not_installed"]
    importlib.import_module("some_engine.start")
    assert called == [False, True]
    assert sys.meta_path == finders


def test_an_error_after_an_import_does_not_break_the_import(
    module: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The engine's module is there, unchanged; under `required` the engine stops."""

    def fail() -> None:
        raise RuntimeError("a mistake of ours")

    when_imported("some_engine.start", fail)
    assert importlib.import_module("some_engine.start").start("c", 1) == ("c", 1, 0)
    assert "a mistake of ours" in caplog.text
    assert "some_engine.start is left as it is" in caplog.text
    monkeypatch.setenv("AFFINITY_ENFORCE", "required")
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        when_imported("some_engine.start", fail)


def test_a_function_without_a_signature_is_one_that_moved(module: str, caplog: pytest.LogCaptureFixture) -> None:
    """A compiled one: a warning, and nothing is replaced."""
    start = importlib.import_module("some_engine.start")
    start.start = iter
    assert replace(Hook("some_engine.start", "start", ("config",), "workers are unbound"), lambda _: print) is False
    assert "some_engine.start.start takes (), (config) was expected: workers are unbound" in caplog.text
    assert start.start is iter


def test_an_unbound_process_has_no_strategy() -> None:
    """Of this package."""
    assert os.environ.get("AFFINITY_BOUND") is None
    assert engine.own_strategy() is None
