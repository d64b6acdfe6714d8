"""Every `/mautic …` that a message, a refusal or a page shows can be typed as it stands."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import commands
from bot.engine.registry import Registry
from bot.model.plan import Refused

ROOT = Path(__file__).parents[1]
SHOWN = re.compile(r"`/mautic ?([^`]*)`")
SAMPLES = (
    (r"usage|again|near|command\b|^typed$", None),
    (r"version", "6.0.10"),
    (r"digest\.missing", "client-x,client-y"),
    (r"selection\.words|--all", "--all"),
    (r"^first$", None),
    (r"operation\.tenant|found\.name", "client-x"),
    (r"\bmove\b", "client-x node2"),
    (r"selection\.words", "--all"),
    (r"^what$", "run"),
    (r"^first$", "start"),
    (r"^_at_start|^mail", "off"),
    (r"plan|larger|plans", "medium"),
    (r"instance|heir|container", "client-x--7"),
    (r"snapshot|point", "s-20270115-080000-2"),
    (r"host|target|to$", "node2"),
    (r"\bpage|pages", "2"),
    (r"hash|head", "0123456789abcdef"),
    (r"\bid\b|number|operation\b|holder", "7"),
    (r"job", "snapshots"),
    (r"part|what", "database"),
    (r"tenant|name|subject|arguments|one|found|old|archived|outbound_off", "client-x"),
)
"""Sample values by a pattern of the expression that they replace in a text; None: a whole command of its own."""
STANDS_FOR = {"id": "7", "host": "node2", "snapshot": "s-20270115-080000-2", "plan": "medium", "job": "snapshots"}
REGISTRY = Registry(commands)


def sample(expression: str) -> str | None:
    last = expression.split("|")[0].strip()
    for pattern, value in SAMPLES:
        if re.search(pattern, last):
            return value
    raise AssertionError(f"a sample for {expression!r} is missing in SAMPLES")


def filled(parts: list[tuple[str, bool]]) -> str:
    """Replace expressions with samples; a text that a whole command is inserted into cannot be checked here."""
    return "".join((sample(text) or "\0") if is_expression else text for text, is_expression in parts)


def of_code(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text())
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    documented = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner | documented:
            yield node.value
        if isinstance(node, ast.JoinedStr):
            known = [
                (part.value, False) if isinstance(part, ast.Constant) else (ast.unparse(part.value), True)
                for part in node.values
                if isinstance(part, (ast.Constant, ast.FormattedValue))
            ]
            whole = "".join(f"\1{text}\2" if is_expression else str(text) for text, is_expression in known)
            yield from filled_where_shown(whole)


def filled_where_shown(text: str) -> Iterator[str]:
    for shown in SHOWN.findall(text):
        parts = re.split("\1(.*?)\2", shown, flags=re.S)
        yield f"`/mautic {filled([(part, number % 2 == 1) for number, part in enumerate(parts)])}`"


def of_template(path: Path) -> Iterator[str]:
    text = re.sub(r"\{%.*?%\}", "", path.read_text(), flags=re.S)
    text = re.sub(r"\{\{(.*?)\}\}", lambda found: f"\1{found[1]}\2", text, flags=re.S)
    yield from filled_where_shown(text.replace("&lt;", "<").replace("&gt;", ">"))


def of_page(path: Path) -> Iterator[str]:
    yield path.read_text()


def shown() -> Iterator[tuple[str, str]]:
    """Yield each command that is shown, and the file that shows it."""
    sources = [(path, of_code) for folder in ("bot", "commands", "schedules") for path in (ROOT / folder).rglob("*.py")]
    sources += [(path, of_template) for path in (ROOT / "templates").rglob("*.j2")]
    sources += [(path, of_page) for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]]
    for path, texts in sources:
        for text in texts(path):
            for words in SHOWN.findall(text):
                # A usage, as help shows it, is not meant to be typed as it stands.
                if "\0" not in words and "[" not in words and "|" not in words:
                    yield str(path.relative_to(ROOT)), " ".join(words.split())


@pytest.mark.parametrize(("where", "words"), sorted(set(shown())))
def test_every_command_that_is_shown_can_be_typed(where: str, words: str) -> None:
    typed = re.sub(r"<(\w[\w-]*)>", lambda found: STANDS_FOR.get(found[1], "client-x"), words)
    try:
        REGISTRY.parse(typed)
    except Refused as error:
        pytest.fail(f"{where} shows `/mautic {words}`: {error}")
