# SPDX-License-Identifier: Apache-2.0
"""Set up `.venv`, or find at once that nothing is to do.

    python3 .ci/venv.py EXTRAS [FOLDER] [--exact]

FOLDER is another place for the environment than `.venv`.

Called by every target of the Makefile, so the common case has to be quick: one small
file is read and compared. Only the standard library is there when this runs, and
perhaps not all of it: Debian ships `venv` apart.
"""

import hashlib
import os
import pathlib
import subprocess
import sys

TREE = pathlib.Path(__file__).resolve().parent.parent
OLDEST = (3, 11)
STAMP = "installed.txt"


def check_python():
    """Stop, with what to type, if this Python cannot make the environment."""
    found = "{}.{}".format(*sys.version_info)
    if sys.version_info < OLDEST:
        sys.exit(
            f"venv: {sys.executable} is Python {found}. "
            f"Expected Python {OLDEST[0]}.{OLDEST[1]} or newer. "
            "Name one: make venv PYTHON=python3.12"
        )
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        sys.exit(
            f"venv: {sys.executable} has no venv package. "
            "Expected it beside python3. Install it:\n"
            f"  apt-get install python3-venv python{found}-venv"
        )


def wanted(extras):
    """What a finished environment says of itself: what it was made from, and where."""
    source = hashlib.sha256((TREE / "pyproject.toml").read_bytes()).hexdigest()
    return f"{TREE}\n[{extras}]\n{version()}\npyproject.toml sha256 {source}\n"


def version():
    """The line that hatchling reads; an install keeps its own copy of it."""
    for line in (TREE / "orthoptax" / "__init__.py").read_text().splitlines():
        if line.startswith("__version__"):
            return line
    sys.exit("venv: orthoptax/__init__.py has no line '__version__ = ...'.")


def is_ready(venv, extras, exact):
    """Whether `venv` is as wanted; with `exact`, also made by this Python."""
    try:
        made = (venv / STAMP).read_text()
    except OSError:
        return False
    return made == wanted(extras) and (not exact or same_python(venv))


def same_python(venv):
    """Whether `venv` was made by the Python that runs this."""
    try:
        lines = (venv / "pyvenv.cfg").read_text().splitlines()
    except OSError:
        return False
    return "version = {}.{}.{}".format(*sys.version_info) in lines


def make(venv, extras, exact):
    """Create `venv` unless a working one is there, and install the tree in it."""
    python = venv / "bin" / "python"
    works = (
        python.exists()
        and subprocess.call(
            [str(python), "-m", "pip", "--version"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        == 0
    )
    if not works or (exact and not same_python(venv)):
        check_python()
        found = "{}.{}.{}".format(*sys.version_info)
        print(f"venv: creating {venv.name} with Python {found}")
        subprocess.check_call([sys.executable, "-m", "venv", "--clear", str(venv)])
    what = f"orthoptax[{extras}] into {venv.name}"
    print(f"venv: installing {what} (minutes)", flush=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--quiet"]
    install += ["--disable-pip-version-check", "--editable", f".[{extras}]"]
    subprocess.check_call(install, cwd=str(TREE))
    (venv / STAMP).write_text(wanted(extras))


def main(extras, folder=".venv", *, exact):
    """Make the environment ready; when two of us start at once, the second waits."""
    venv = TREE / folder
    if is_ready(venv, extras, exact):
        return
    check_python()
    import fcntl

    with open(str(TREE / ".venv.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_ready(venv, extras, exact):
            make(venv, extras, exact)


if __name__ == "__main__":
    try:
        words = [word for word in sys.argv[1:] if word != "--exact"]
        main(*words, exact="--exact" in sys.argv)
    except subprocess.CalledProcessError as failed:
        sys.exit("venv: '{}' failed".format(" ".join(failed.cmd)))
    except KeyboardInterrupt:
        os._exit(130)
