"""The guest's kernel and initramfs, made once and kept in a cache directory."""

from __future__ import annotations

import hashlib
import lzma
import re
import shutil
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .machines import Machine
from .packages import HOST, Archive, cache_directory, made
from .prepare import check
from .userland import root_directory

#: The modules a guest needs beyond what the kernel has built in.
MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")

#: Debian's names of architectures.
DEBIAN = {"x86_64": "amd64", "aarch64": "arm64"}

#: The firmware of an Arm machine. That of Debian 12 lets the kernel find one node only.
FIRMWARE = Archive("trixie", "arm64")

INIT = Path(__file__).with_name("init")


@dataclass(frozen=True)
class Boot:
    """What QEMU is started with."""

    kernel: Path
    initramfs: Path
    root: Path
    firmware: Path | None


def boot_files(machine: Machine) -> Boot:
    """The kernel and the initramfs, from the cache where they are there."""
    check(machine.architecture)
    architecture = DEBIAN[machine.architecture]
    archive = Archive(machine.suite, architecture)
    package = archive.newest(machine.kernel)
    if architecture == HOST:
        root, busybox = Path("/"), Path(shutil.which("busybox") or "busybox")
    else:
        root = root_directory(architecture)
        busybox = root / "usr/bin/busybox"
    contents = hashlib.sha256(INIT.read_bytes() + busybox.read_bytes()).hexdigest()
    # A kernel and its modules belong together, and so does what goes with them.
    directory = cache_directory() / f"{package}-{contents[:12]}"
    if not directory.is_dir():
        make(directory, archive, package, busybox)
    has_own = architecture != HOST and machine.firmware
    return Boot(directory / "kernel", directory / "initramfs", root, arm_firmware() if has_own else None)


def arm_firmware() -> Path:
    """The firmware of an Arm machine, from the cache where it is there; QEMU brings that of the others."""
    directory = cache_directory() / "arm-firmware"
    if not directory.is_dir():
        with made(directory) as done:
            tree = done.with_name("tree")
            FIRMWARE.unpack(["qemu-efi-aarch64"], tree)
            shutil.copy(tree / "usr/share/qemu-efi-aarch64/QEMU_EFI.fd", done)
    return directory / "QEMU_EFI.fd"


def make(directory: Path, archive: Archive, package: str, busybox: Path) -> None:
    """Fill a directory of the cache."""
    with made(directory) as done:
        tree = done.with_name("tree")
        archive.unpack([package], tree)
        (image,) = (tree / "boot").glob("vmlinuz-*")
        (done / "kernel").write_bytes(uncompressed(image.read_bytes()))
        modules = list(with_dependencies(MODULES, tree / "lib" / "modules"))
        (done / "initramfs").write_bytes(initramfs(busybox, modules))


def uncompressed(image: bytes) -> bytes:
    """The kernel proper out of a boot image compressed with xz.

    QEMU starts it directly, which saves the guest from decompressing it: that
    takes seconds in emulation. Any other image is left as it is.
    """
    if image[0x202:0x206] != b"HdrS":
        return image  # an Arm kernel, which is not compressed
    sectors = image[0x1F1]
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (sectors + 1) * 512 + offset
    payload = image[start : start + length]
    if not payload.startswith(b"\xfd7zXZ\0"):
        return image
    return lzma.LZMADecompressor().decompress(payload)


def with_dependencies(names: tuple[str, ...], tree: Path) -> Iterator[tuple[str, bytes]]:
    """The named modules and what they need, each after those it needs."""
    files = {path.name.split(".ko")[0].replace("-", "_"): path for path in tree.rglob("*.ko*")}
    seen: set[str] = set()

    def visit(name: str) -> Iterator[tuple[str, bytes]]:
        if name in seen or name not in files:
            return
        seen.add(name)
        content = files[name].read_bytes()
        if files[name].suffix == ".xz":
            content = lzma.decompress(content)
        needs = re.search(rb"\0depends=([^\0]*)\0", content)
        for need in needs[1].decode().split(",") if needs else ():
            yield from visit(need.replace("-", "_"))
        yield f"{name}.ko", content

    for name in names:
        yield from visit(name)


def initramfs(busybox: Path, modules: list[tuple[str, bytes]]) -> bytes:
    """A cpio archive ("newc") of the first process, busybox and the modules."""
    order = "".join(f"{name}\n" for name, _ in modules)
    archive = b""
    for directory in ("bin", "modules", "dev"):
        archive += entry(directory, stat.S_IFDIR | 0o755)
    archive += entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    archive += entry("bin/busybox", stat.S_IFREG | 0o755, busybox.read_bytes())
    archive += entry("init", stat.S_IFREG | 0o755, INIT.read_bytes())
    archive += entry("modules/order", stat.S_IFREG | 0o644, order.encode())
    for name, content in modules:
        archive += entry(f"modules/{name}", stat.S_IFREG | 0o644, content)
    return archive + entry("TRAILER!!!", 0)


def entry(name: str, mode: int, content: bytes = b"", device: tuple[int, int] = (0, 0)) -> bytes:
    path = name.encode() + b"\0"
    fields = (0, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(path), 0)
    header = b"070701" + b"".join(b"%08x" % field for field in fields) + path
    return padded(header) + padded(content)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 4)
