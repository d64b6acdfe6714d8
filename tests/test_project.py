"""`pyproject.toml` is right about the project: its dependencies, its optional extras, and that it is no package."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from datetime import datetime, timedelta
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.own import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CORE = [Requirement(line) for line in PROJECT["project"]["dependencies"]]
EXTRAS = {
    name: [Requirement(line) for line in lines] for name, lines in PROJECT["project"]["optional-dependencies"].items()
}
# Code that runs inside a tenant has only the tenant's Python.
SOURCES = [
    path
    for folder in ("bot", "commands", "schedules")
    for path in (ROOT / folder).rglob("*.py")
    if "mautic_ctl" not in path.parts
]


@functools.cache
def distributions() -> Mapping[str, list[str]]:
    """Return `packages_distributions()`, which reads each package's files, from a cache."""
    return packages_distributions()


def imported(path: Path) -> set[str]:
    """Return the names of the distributions that a source imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    known = distributions()
    return {canonicalize_name(known[name][0]) for name in names if name in known} - {"mautic-ops"}


def test_every_import_is_declared_and_allowed_in_its_part() -> None:
    core = {canonicalize_name(one.name) for one in CORE}
    of = {name: {canonicalize_name(one.name) for one in EXTRAS[name]} for name in EXTRAS}
    allowed = {"chart.py": of["chart"], "differences.py": of["pictures"]}
    for path in SOURCES:
        more = of["local"] if "workspace" in path.parts else allowed.get(path.name, set())
        assert imported(path) - core - more == set(), path


def test_every_dependency_has_a_lowest_version() -> None:
    """`make lowest` runs the suite with all of them at that version."""
    for one in (*CORE, *(one for extra in EXTRAS.values() for one in extra)):
        assert any(bound.operator == ">=" for bound in one.specifier), one


def test_make_installs_the_extras() -> None:
    assert "uv sync -q --locked --inexact --all-extras" in (ROOT / "Makefile").read_text()


def test_make_installs_one_pinned_version_of_uv() -> None:
    made = (ROOT / "Makefile").read_text()
    (version,) = re.findall(r"^UV := (\d+\.\d+\.\d+)$", made, re.M)
    assert re.findall(r"pip install (.*?);", made) == ["-q uv==$(UV)"]
    assert "'^uv $(UV) '" in made, f"another version than {version} must be replaced"


def test_every_old_dependency_has_its_reason_to_stay() -> None:
    """A dependency is old if it had no release in the 548 days before the newest release in uv.lock."""
    locked = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    released = {
        one["name"]: max(made["upload-time"] for made in (*one.get("wheels", ()), one.get("sdist") or {}) if made)
        for one in locked
        if one.get("wheels")
    }
    newest = datetime.fromisoformat(str(max(released.values())))
    old = {name for name, at in released.items() if newest - datetime.fromisoformat(str(at)) > timedelta(days=548)}
    told = set(re.findall(r"^\| ([a-z0-9-]+) \| \d{4}-", (ROOT / "docs" / "dependencies.md").read_text(), re.M))
    assert told == old


WITHOUT = """
import sys
for name in {lacking!r}:
    sys.modules[name] = None
from importlib import util
found = util.find_spec
util.find_spec = lambda name, *more: None if name in {lacking!r} else found(name, *more)
from bot import program
from bot.model.pages import Pages
from bot.reports import chart, pictures
{then}
"""


@pytest.mark.parametrize(
    ("then", "told"),
    [
        ("chart.png(chart.Chart((), (), 'UTC'))", "CannotDraw: matplotlib is not installed. Run `make .venv`."),
        (
            "sys.exit(pictures.take(Pages(), Pages(), 'x', program='true').why)",
            "No pictures: Pillow is not installed. Run `make .venv`.",
        ),
        (
            "sys.exit(program.main(['up']))",
            "mautic-ops: `make up` needs honcho and aiohttp: not installed; `make .venv` does that.",
        ),
        ("print(program.main(['docs', 'x']) if 0 else 'runs', file=sys.stderr)", "runs"),
    ],
)
def test_without_its_extras_the_bot_runs_or_says_what_is_missing(then: str, told: str) -> None:
    modules = {"pillow": "PIL"}
    lacking = [modules.get(one.name, one.name) for extra in EXTRAS.values() for one in extra]
    program = WITHOUT.format(lacking=lacking, then=then)
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ran.stderr.strip().endswith(told)


def test_a_build_as_a_package_fails_with_an_explanation(tmp_path: Path) -> None:
    assert PROJECT["tool"]["uv"]["package"] is False
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-index", "--wheel-dir", str(tmp_path), str(ROOT)]
    ran = subprocess.run(build, capture_output=True, text=True, check=False)
    assert ran.returncode != 0
    assert "mautic-ops is no package: run it from its checkout, where `make up` installs" in ran.stdout + ran.stderr
