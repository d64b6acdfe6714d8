"""The documentation agrees with the code: generated pages are up to date, links work, commands are complete."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import commands
import schedules
from bot import docs
from bot.engine.registry import Command, Registry
from bot.engine.scheduler import discover
from bot.settings import DEFAULTS, load
from bot.store.jobs import Declared

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
REGISTRY = Registry(commands)
TESTS = [path for path in (ROOT / "tests").rglob("test_*.py") if "node_modules" not in path.parts]


@pytest.mark.parametrize("path", docs.pages(ROOT, REGISTRY), ids=lambda path: path.name)
def test_a_generated_page_is_up_to_date(path: Path) -> None:
    assert path.read_text() == docs.pages(ROOT, REGISTRY)[path], "run `make docs`"


def test_the_table_of_commands_follows_the_policies() -> None:
    rows = [row for row in docs.command_table(REGISTRY).splitlines() if row.endswith("| at once |")]
    named = [re.match(r"\| `/mautic (\w+)", row) for row in rows]
    assert [name and name[1] for name in named] == ["rehearse", "restart", "resume", "snapshot", "start", "tag"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_targets_of_links_exist(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_tests_exist(page: Path) -> None:
    """docs/security.md names the tests of each claim; a file name alone is in the folder of the one before it."""
    folder, lost = ROOT, []
    for named in re.findall(r"`((?:tests/)?[\w/]*test_\w+\.py|tests/\w+)`", page.read_text()):
        path = ROOT / named if "/" in named else folder / named
        folder = path.parent
        lost += [] if path.exists() else [named]
    assert lost == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_exist(page: Path) -> None:
    known = set(re.findall(r"^([\w.-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"`make ([\w-]+)", page.read_text())) <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_of_the_configuration_are_valid(page: Path, tmp_path: Path) -> None:
    for number, example in enumerate(re.findall(r"^ *```toml\n(.*?)```", page.read_text(), re.M | re.S)):
        file = tmp_path / f"{number}.toml"
        file.write_text(example)
        assert load(file, environment={})


@pytest.mark.parametrize("command", REGISTRY.commands.values(), ids=lambda command: command.name)
def test_a_command_has_a_summary_a_template_and_a_test(command: Command) -> None:
    """An operation's template has its outcome at least; the test is one that types the command."""
    assert command.summary
    if command.kind == "operation":
        assert (ROOT / "templates" / "commands" / f"{command.name}.j2").exists()
    typed = re.compile(rf"(?:/mautic |[(\[{{,:] ?f?\"){command.name}\b")
    assert any(typed.search(path.read_text()) for path in TESTS), f"no test types `/mautic {command.name}`"


@pytest.mark.parametrize("job", discover(schedules), ids=lambda job: job.name)
def test_a_job_has_a_summary_and_a_test(job: Declared) -> None:
    assert job.summary
    taken = f"from {job.run.__module__} import"
    assert any(taken in path.read_text() for path in TESTS), f"no test runs the job {job.name}"


def test_every_setting_is_explained() -> None:
    """Roles, policies and plans are explained once above their tables; every other key has its own explanation."""
    unexplained = re.findall(r"^\| `(\w+)` \| `.*` \| +\|$", docs.configuration(), re.M)
    assert unexplained == []
    keys = re.findall(r"^\| `(\w+)` \|", docs.configuration(), re.M)
    assert keys == re.findall(r"^(\w+) = ", DEFAULTS.read_text(), re.M)


def test_every_figure_is_explained() -> None:
    told = [(ROOT / "tests" / "bench" / f"{name}.py").read_text() for name in ("density", "heartbeats", "watch")]
    figures = re.findall(r'^ +"(\w+)": ', "\n".join(told), re.M)
    figures += re.findall(r'figures\["(\w+)"\]', "\n".join([*told, (ROOT / "tests" / "bench" / "run.py").read_text()]))
    # A row explains a figure with its unit, its limit and its meaning. Tables of measurements have two columns only.
    row = r"^\| `(\w+)` \|[^|]*\|[^|]*\| \S.*\|$"
    explained = set(re.findall(row, (ROOT / "docs" / "performance.md").read_text(), re.M))
    assert set(figures) - explained == set()


def test_every_package_is_in_the_picture_of_the_architecture() -> None:
    picture = (ROOT / "docs" / "architecture.md").read_text()
    rooms = [path.name for path in sorted((ROOT / "bot").iterdir()) if (path / "__init__.py").exists()]
    assert [name for name in rooms if f"`bot/{name}/`" not in picture] == []


def test_every_module_says_what_it_is_for() -> None:
    silent = [path for path in (ROOT / "bot").rglob("*.py") if not ast.get_docstring(ast.parse(path.read_text()))]
    assert silent == []


def test_files_named_in_the_architecture_exist() -> None:
    """A table that says where to add something is useless once the file has moved."""
    named = re.findall(
        r"`((?:bot|commands|schedules|tests|templates)/[\w./]*)`", (ROOT / "docs/architecture.md").read_text()
    )
    assert [name for name in named if not (ROOT / name).exists()] == []
