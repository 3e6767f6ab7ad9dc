"""Build arrayd's package for Debian and Ubuntu: ``python deploy/deb/build.py``.

It needs Python with pip, dpkg-deb, and where pip finds packages. arrayd and all that it uses lie in
a venv of their own, /opt/venvs/arrayd, as dh-virtualenv does it: the distribution's Python runs
them, none of its packages is used or changed. So the package is for the minor version of Python,
and for the architecture, that it was built with, and depends on them.

A venv knows where it lies: first lines of programs, and the paths in compiled modules, are changed
from where it is built to where it will be. All modules are compiled here, for what Python would
compile later, run by root, no package would ever remove.
"""

from __future__ import annotations

import argparse
import email.utils
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
SCRIPTS = DEPLOY / "deb" / "control"

VENV = Path("/opt/venvs/arrayd")

PLAIN = {
    "deploy/system/arrayd.sysusers.conf": "usr/lib/sysusers.d/arrayd.conf",
    "deploy/system/arrayd.catalog": "usr/lib/systemd/catalog/arrayd.catalog",
    "deploy/deb/needrestart.conf": "etc/needrestart/conf.d/arrayd.conf",
    "deploy/completions/arrayd.bash": "usr/share/bash-completion/completions/arrayd",
    "deploy/completions/arrayd.zsh": "usr/share/zsh/vendor-completions/_arrayd",
    "deploy/completions/arrayd.fish": "usr/share/fish/vendor_completions.d/arrayd.fish",
    "deploy/README.md": "usr/share/doc/arrayd/README.md",
    "deploy/system/read-users-files.conf": "usr/share/doc/arrayd/examples/read-users-files.conf",
    "client/examples/train_digits.py": "usr/share/doc/arrayd/examples/train_digits.py",
    "deploy/kubernetes/daemonset.yaml": "usr/share/doc/arrayd/examples/kubernetes/daemonset.yaml",
    "deploy/kubernetes/pod.yaml": "usr/share/doc/arrayd/examples/kubernetes/pod.yaml",
    "deploy/kubernetes/Dockerfile": "usr/share/doc/arrayd/examples/kubernetes/Dockerfile",
    "LICENSE": "usr/share/doc/arrayd/copyright",
}
"""What goes into the package as it is."""

PAGES = {"arrayd.1": "man1", "arrayd.toml.5": "man5"}

CONFFILES = ("/etc/arrayd/arrayd.toml", "/etc/needrestart/conf.d/arrayd.conf")
"""Files that the administrator may change: dpkg asks before it replaces such a change."""

CONTROL = """\
Package: arrayd
Version: {version}
Architecture: {architecture}
Maintainer: {maintainer}
Installed-Size: {kib}
Depends: {depends}
Section: science
Priority: optional
Description: one copy of your big NumPy arrays per machine
 A daemon loads arrays from files into shared memory, once, and programs of all
 users who may read these files get the same pages, read-only. The first program
 that asks starts it.
 .
 It lies in a Python environment of its own, /opt/venvs/arrayd.
"""

CHANGES = """\
arrayd ({version}) unstable; urgency=medium

  * Built from the sources of this version.

 -- {maintainer}  {date}
"""

_STAND_IN = "/opt/arrayd/bin/arrayd"
_NOBODY, _MEMBERS = '\n#allow = "none"\n', '\nallow = "@arrayd"\n'


def pip_install(python: Path) -> None:
    """Install arrayd of this checkout, with all that its formats use, into a venv by pip.

    Parameters
    ----------
    python
        The venv's own, which needs no pip.
    """
    what = ["install", "--quiet", "--no-compile", "--disable-pip-version-check", f"{ROOT}[all]"]
    subprocess.run([sys.executable, "-m", "pip", "--python", str(python), *what], check=True)


def build(
    output: Path,
    python: str = "/usr/bin/python3",
    *,
    compression: str = "xz",
    install: Callable[[Path], None] = pip_install,
) -> Path:
    """Return the package that was built.

    Parameters
    ----------
    output
        The folder that it goes to.
    python
        The interpreter that is to run arrayd; it will have the same path.
    compression
        Of dpkg-deb: ``xz`` is small, ``none`` is fast.
    install
        Puts arrayd into the venv whose Python it is given.
    """
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="arrayd-deb-") as folder:
        stage = Path(folder, "stage")
        venv = stage / VENV.relative_to("/")
        subprocess.run([python, "-m", "venv", "--without-pip", str(venv)], check=True)
        install(venv / "bin" / "python3")
        _settle(venv, stage)
        _add_files(stage, version)
        (stage / "usr/bin").mkdir()
        (stage / "usr/bin/arrayd").symlink_to(VENV / "bin" / "arrayd")
        _set_modes(stage)
        architecture = _said("dpkg", "--print-architecture")
        _add_control(stage, python, version, architecture)
        package = output / f"arrayd_{version}_{architecture}.deb"
        command = ["dpkg-deb", "--root-owner-group", f"-Z{compression}", "--build"]
        subprocess.run([*command, str(stage), str(package)], check=True, stdout=subprocess.DEVNULL)
    return package


# ---- the files -------------------------------------------------------------------------------


def _settle(venv: Path, stage: Path) -> None:
    """Have a venv below `stage` say everywhere that it lies at `VENV`, and compile its modules."""
    here = str(venv).encode()
    for path in (venv / "pyvenv.cfg", *(venv / "bin").iterdir()):
        if not path.is_symlink() and here in (text := path.read_bytes()):
            path.write_bytes(text.replace(here, bytes(VENV)))
    for record in venv.glob("lib/*/site-packages/arrayd-*.dist-info/direct_url.json"):
        record.unlink()  # the path of the checkout
    shutil.rmtree(venv / "include", ignore_errors=True)
    # By hash and unchecked: whatever becomes of the files' times, nothing is compiled again.
    compiled = ["-m", "compileall", "-q", "-j0", "-s", str(stage), "-p", "/"]
    compiled += ["--invalidation-mode", "unchecked-hash", str(venv / "lib")]
    subprocess.run([str(venv / "bin" / "python3"), *compiled], check=True)


def _add_files(stage: Path, version: str) -> None:
    for source, place in PLAIN.items():
        _write(stage / place, (ROOT / source).read_bytes())
    for name, section in PAGES.items():
        page = gzip.compress((DEPLOY / "man" / name).read_bytes(), mtime=0)
        _write(stage / "usr/share/man" / section / f"{name}.gz", page)
    for unit in (*DEPLOY.glob("system/*.service"), *DEPLOY.glob("system/*.socket")):
        text = unit.read_text().replace(_STAND_IN, f"{VENV}/bin/arrayd")
        _write(stage / "usr/lib/systemd/system" / unit.name, text.encode())
    options = (DEPLOY / "arrayd.toml").read_text().replace(_NOBODY, _MEMBERS)
    _write(stage / "etc/arrayd/arrayd.toml", options.encode())

    date = email.utils.formatdate(int(os.environ.get("SOURCE_DATE_EPOCH", time.time())))
    changes = CHANGES.format(version=version, maintainer=_maintainer(), date=date)
    _write(stage / "usr/share/doc/arrayd/changelog.gz", gzip.compress(changes.encode(), mtime=0))


def _maintainer() -> str:
    """Return who builds it, by the variables that Debian's own tools read."""
    name, address = (os.environ.get(f"DEB{what}") for what in ("FULLNAME", "EMAIL"))
    return f"{name or 'arrayd'} <{address or 'root@localhost'}>"


def _write(path: Path, text: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text)


def _set_modes(stage: Path) -> None:
    """Let everybody read all of it, and nobody but root write, whatever the umask is here."""
    for path in (stage, *stage.rglob("*")):
        if not path.is_symlink():
            runs = path.is_dir() or path.stat().st_mode & 0o100
            path.chmod(0o755 if runs else 0o644)


# ---- what dpkg is told -----------------------------------------------------------------------


def _add_control(stage: Path, python: str, version: str, architecture: str) -> None:
    minor = int(_said(python, "-c", "import sys; print(sys.version_info.minor)"))
    files = [path for path in _files(stage) if not path.is_symlink()]
    control = CONTROL.format(
        version=version,
        architecture=architecture,
        maintainer=_maintainer(),
        kib=sum(path.stat().st_size for path in files) // 1024,
        depends=f"python3 (>= 3.{minor}), python3 (<< 3.{minor + 1}), "
        f"libc6 (>= {'.'.join(map(str, newest_libc(files)))}), systemd, passwd",
    )
    sums = [
        f"{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}  "
        f"{path.relative_to(stage)}\n"
        for path in files
        if f"/{path.relative_to(stage)}" not in CONFFILES
    ]
    place = stage / "DEBIAN"
    _write(place / "control", control.encode())
    _write(place / "conffiles", "".join(f"{name}\n" for name in CONFFILES).encode())
    _write(place / "md5sums", "".join(sums).encode())
    for script in SCRIPTS.iterdir():
        shutil.copy(script, place / script.name)
        (place / script.name).chmod(0o755)


def newest_libc(files: list[Path]) -> tuple[int, int]:
    """Return the newest version of the C library whose symbols a library among `files` uses."""
    libraries = [path for path in files if re.search(r"\.so(\.|$)", path.name)]
    versions = [
        (int(version[1]), int(version[2]))
        for path in libraries
        for version in re.finditer(rb"\0GLIBC_(\d+)\.(\d+)", path.read_bytes())
    ]
    return max(versions, default=(2, 28))


def _files(stage: Path) -> Iterator[Path]:
    return (path for path in sorted(stage.rglob("*")) if not path.is_dir() or path.is_symlink())


def _said(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def main() -> None:
    """Build the package, and print its path."""
    parser = argparse.ArgumentParser(description="Build arrayd's Debian package.")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="default: dist/")
    parser.add_argument(
        "--python",
        default="/usr/bin/python3",
        help="the Python that runs it; default: %(default)s",
    )
    parser.add_argument("--compression", default="xz", help="of dpkg-deb; default: %(default)s")
    args = parser.parse_args()
    sys.stdout.write(f"{build(args.output, args.python, compression=args.compression)}\n")


if __name__ == "__main__":
    main()
