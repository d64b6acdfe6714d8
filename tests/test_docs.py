"""The documentation is what the code is: generated pages are fresh, links lead somewhere, commands are whole."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import commands
from bot import docs
from bot.registry import Registry

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
REGISTRY = Registry(commands)


@pytest.mark.parametrize("path", docs.pages(ROOT, REGISTRY), ids=lambda path: path.name)
def test_a_generated_page_is_fresh(path: Path) -> None:
    assert path.read_text() == docs.pages(ROOT, REGISTRY)[path], "run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_exist(page: Path) -> None:
    known = set(re.findall(r"^([\w.-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"`make ([\w-]+)", page.read_text())) <= known


@pytest.mark.parametrize("name", [c.name for c in REGISTRY.commands.values() if c.kind == "operation"])
def test_an_operation_says_what_it_did(name: str) -> None:
    assert (ROOT / "templates" / "commands" / f"{name}.j2").exists()


def test_every_setting_is_explained() -> None:
    unexplained = re.findall(r"^\| `([^`]+)` \| `[^`]*` \|\s+\|$", docs.configuration(), re.M)
    # What a role, a policy and a plan are is said once, above their first table.
    assert [key for key in unexplained if key in {"state", "base_domain", "endpoint", "archive", "tls"}] == []
