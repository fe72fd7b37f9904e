"""The root directory of a guest whose processors are not the host's: Debian's packages, unpacked.

Python is Debian's; this project and what it needs is pure Python and comes from the interpreter that runs here.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sysconfig
from pathlib import Path

from .packages import Archive, cache_directory, made

#: With what they need. The processor's busybox goes into the initramfs.
PACKAGES = ("python3", "numactl", "busybox-static", "util-linux", "bash", "dash", "coreutils", "iproute2")

#: Where the guest has its virtual environment, and what is the start of a command there.
ENVIRONMENT = Path("/venv")
PROGRAM = f"""\
#!{ENVIRONMENT}/bin/python
import sys
from affinity.cli import main
if __name__ == "__main__":  # or a worker that is spawned would run it too
    sys.exit(main())
"""

#: Directories that Debian merges into /usr, and packages still name.
MERGED = ("bin", "sbin", "lib")


def root_directory(architecture: str) -> Path:
    """The root directory, from the cache where it is there."""
    archive = Archive(architecture=architecture)
    contents = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    directory = cache_directory() / f"root-{architecture}-{contents[:12]}"
    if not directory.is_dir():
        with made(directory) as tree:
            make(tree, archive)
    return directory


def make(tree: Path, archive: Archive) -> None:
    for name in MERGED:
        (tree / "usr" / name).mkdir(parents=True)
        (tree / name).symlink_to(f"usr/{name}")
    archive.unpack(PACKAGES, tree, needs=True)
    if not (tree / "usr/bin/sh").exists():  # a package's script makes it
        (tree / "usr/bin/sh").symlink_to("dash")
    (tree / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nunprivileged:x:65534:65534::/:/bin/false\n")
    (tree / "etc/group").write_text("root:x:0:\nunprivileged:x:65534:\n")
    (tree / "etc/hosts").write_text("127.0.0.1 localhost\n")
    environment = tree / ENVIRONMENT.relative_to("/")
    (environment / "bin").mkdir(parents=True)
    (environment / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    (environment / "bin/python").symlink_to("/usr/bin/python3")
    (environment / "bin/affinity").write_text(PROGRAM)
    (environment / "bin/affinity").chmod(0o755)
    library = tree / "usr/lib" / python(tree)
    interpreter = shutil.which(library.name)
    if interpreter:  # bytecode is the same on each processor, and takes the guest several seconds
        shutil.rmtree(library / "test", ignore_errors=True)
        subprocess.run([interpreter, "-m", "compileall", "-q", "-s", tree, "-p", "/", library], check=False)


def python(tree: Path) -> str:
    """The name of the guest's Python, such as python3.11."""
    return str((tree / "usr/bin/python3").readlink())


def mounts(tree: Path, project: Path) -> list[tuple[Path, Path]]:
    """Directories of the host's that the guest has, and where."""
    packages = Path(sysconfig.get_path("purelib"))
    return [(packages, ENVIRONMENT / "lib" / python(tree) / "site-packages"), (project, project)]
