"""Debian packages of the host's suite, or of another suite or architecture.

Those have lists of their own: neither the host's lists nor its packages change. The mirror is the host's.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .prepare import Missing

#: Debian's name of the host's architecture. It is the only one on which the harness runs.
HOST = "amd64"


def cache_directory() -> Path:
    chosen = os.environ.get("VM_CACHE")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "affinity-vm"


@contextmanager
def made(directory: Path) -> Iterator[Path]:
    """A new directory that becomes one of the cache at the end; others may be making the same meanwhile."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
        done = Path(scratch) / "done"
        done.mkdir()
        yield done
        try:
            done.rename(directory)
        except OSError:
            if not directory.is_dir():
                raise


@dataclass(frozen=True)
class Archive:
    """A suite of Debian for an architecture.

    suite: its codename; "" is the host's own, and "-backports" that of its backports.
    """

    suite: str = ""
    architecture: str = HOST

    def newest(self, package: str) -> str:
        """Return the name of the package that a package such as linux-image-amd64 stands for.

        It is kept, so that what is in the cache serves without APT's lists.
        """
        kept = cache_directory() / f"{self._name}-{package}"
        shown = self._run("apt-cache", "depends", package).stdout
        match = re.search(r"Depends: (\S+-[0-9]+\.\S+)", shown)
        if match is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(match[1])
        elif not kept.exists():
            raise Missing(f"APT finds no package {package}: run apt-get update first")
        return kept.read_text()

    def unpack(self, packages: Sequence[str], directory: Path, *, needs: bool = False) -> None:
        """Unpack packages into a directory, with what they need or without."""
        directory.mkdir(parents=True, exist_ok=True)
        scratch = directory.with_name(f"{directory.name}.deb")
        scratch.mkdir()
        (scratch / "partial").mkdir()
        # The first keeps what it fetches in APT's cache, the second in the working directory.
        install = ("install", "-y", "--download-only", "--no-install-recommends", f"-oDir::Cache::archives={scratch}")
        words = (*(install if needs else ("download",)), *packages)
        fetched = self._run("apt-get", *words, directory=scratch)
        if fetched.returncode:  # the lists name a version that the mirror has no more
            self.update()
            fetched = self._run("apt-get", *words, directory=scratch)
        if fetched.returncode:
            raise Missing(f"cannot download {' '.join(packages)}: {fetched.stderr.strip()}")
        for archive in sorted(scratch.glob("*.deb")):
            with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", archive], stdout=subprocess.PIPE) as content:
                # Packages name /lib and /bin, where a root directory has links to those in /usr.
                extract = ["tar", "-x", "--keep-directory-symlink", "-C", directory]
                subprocess.run(extract, stdin=content.stdout, check=True)
        shutil.rmtree(scratch)

    def update(self) -> None:
        """Fetch the lists of packages."""
        if self._is_hosts:
            return  # what the host's lists name is the administrator's matter
        address, codename = mirror()
        suite = codename + self.suite if self.suite[:1] in ("", "-") else self.suite
        (self._directory / "lists" / "partial").mkdir(parents=True, exist_ok=True)
        (self._directory / "archives" / "partial").mkdir(parents=True, exist_ok=True)
        (self._directory / "sources.list").write_text(f"deb {address} {suite} main\n")
        done = subprocess.run(["apt-get", "update", "-q", *self._options], capture_output=True, text=True, check=False)
        if done.returncode:
            raise Missing(f"cannot fetch the lists of {suite}: {done.stderr.strip()}")

    @property
    def _is_hosts(self) -> bool:
        return not self.suite and self.architecture == HOST

    @property
    def _name(self) -> str:
        return f"apt-{self.suite.strip('-') or 'stable'}-{self.architecture}"

    @property
    def _directory(self) -> Path:
        return cache_directory() / self._name

    @property
    def _options(self) -> list[str]:
        if self._is_hosts:
            return []
        options = {
            "APT::Architecture": self.architecture,
            "APT::Architectures": self.architecture,
            "APT::Sandbox::User": "root",
            "Debug::NoLocking": "true",  # else there is a lock beside Dir::State::status
            "Dir::State::status": "/dev/null",
            "Dir::State::lists": self._directory / "lists",
            "Dir::Cache": self._directory,
            "Dir::Etc::sourcelist": self._directory / "sources.list",
            "Dir::Etc::sourceparts": "-",
        }
        return [f"-o{name}={value}" for name, value in options.items()]

    def _run(
        self, program: str, command: str, *words: str, directory: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        if not self._is_hosts and not (self._directory / "sources.list").exists():
            self.update()
        return subprocess.run(
            [program, command, *self._options, *words], cwd=directory, capture_output=True, text=True, check=False
        )


def mirror() -> tuple[str, str]:
    """Return the address of the host's mirror of Debian, and the codename of its suite."""
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(ORIGIN)|$(REPO_URI)|$(CODENAME)", "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for line in listed.splitlines():
        origin, address, codename = line.split("|")
        if origin == "Debian" and codename.isalpha():  # neither bookworm-updates nor bookworm-security
            return address, codename
    raise Missing("APT has no lists of a Debian release: run apt-get update first")
