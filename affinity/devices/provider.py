"""`DeviceProvider`: one way to list GPUs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from affinity.devices.gpu import Gpu
from affinity.devices.use import EVERY_PROCESS, GpuUse, ProcessFilter
from affinity.support import Support

if TYPE_CHECKING:
    from affinity.host import Host
    from affinity.settings import Settings
    from affinity.variables import Option


class DeviceProvider(ABC):
    """Entry point group `affinity.devices`: one way to list GPUs.

    Write a class with a no-argument constructor; import heavy things inside `devices` only. Several providers may
    list one GPU: what they list is merged by PCI address. `supports` decides, from files, whether this provider can
    answer for this host, and never raises; it is not asked where the operator names the provider. `devices` may
    raise `DeviceError` with a remedy; the other providers then answer alone.

    driver_vendors: the vendors ("nvidia", …) whose driver is asked, at some cost: a GPU of theirs that is not listed is
    not there for this process, whatever sysfs shows. Empty for a provider that reads files alone.
    """

    #: The version of this interface that the class is written for; the registry refuses one newer than this.
    interface_version: ClassVar[int] = 1

    driver_vendors: ClassVar[frozenset[str]] = frozenset()

    #: Its own variables, `AFFINITY_<PLUGIN>_<OPTION>`; `settings.option(…)` reads one.
    options: ClassVar[tuple[Option[Any], ...]] = ()

    @abstractmethod
    def supports(self, host: Host) -> Support:
        """Return whether this provider can list the GPUs of this host, and why (not)."""

    @abstractmethod
    def devices(self, host: Host, settings: Settings) -> tuple[Gpu, ...]:
        """Return every GPU that this provider sees, in PCI order."""

    def processes(
        self, host: Host, gpus: Sequence[Gpu], asked: ProcessFilter = EVERY_PROCESS
    ) -> Sequence[GpuUse] | None:
        """Return the processes of these GPUs, of any user; None (the default) if this provider lists none.

        gpus: GPUs of any vendor with a PCI address, without those whose driver's provider has answered before.
        asked: only these processes need be looked at; others in the answer are dropped.
        May raise `DeviceError` with a remedy; the other providers then answer alone.
        """
        return None
