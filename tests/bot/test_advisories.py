"""Advisories: the bot's own list, which versions have which holes, and what happens to an invalid list."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.fleet.advisories import OURS, advisories, exposed, keep, refuse_holes, told
from bot.model.advisories import InvalidAdvisories, Severity, at_least, counted, read
from bot.model.labels import Role
from bot.model.plan import Refused
from bot.model.tenants import Tenant
from bot.settings import Settings
from tests.support.bot import settings_in

KNOWN = read(OURS.read_bytes())
HOLE = {
    "id": "OURS-1",
    "severity": "high",
    "affected": [{"introduced": "5.0.0", "fixed": "5.3.0"}],
    "words": "Something is open",
    "link": "https://agency.example/ours-1",
}


def ids(version: str) -> set[str]:
    return {one.id for one in KNOWN.of(version)}


@pytest.mark.parametrize("version", ["5.2.12", "6.0.10", "7.2.2", "5.2.12+double", "8.0.0"])
def test_versions_that_may_be_deployed_have_no_known_hole(version: str) -> None:
    assert ids(version) == set()


@pytest.mark.parametrize(
    ("version", "found", "cure"),
    [
        ("5.2.11", {"CVE-2026-115191"}, "5.2.12"),
        ("7.2.1", {"CVE-2026-115191", "CVE-2026-115188"}, "7.2.2"),
        ("6.0.9", {"CVE-2026-115191"}, "6.0.10"),
        (
            "5.2.9",
            {"CVE-2026-115191", "CVE-2026-9558", "CVE-2026-4776", "CVE-2026-9557", "CVE-2026-3105"},
            "5.2.12",
        ),
        (
            "6.0.6+double",
            {"CVE-2026-115191", "CVE-2026-9558", "CVE-2026-4776", "CVE-2026-9557", "CVE-2026-3105", "CVE-2025-13828"},
            "6.0.10",
        ),
        ("5.1.0", {one.id for one in KNOWN.advisories} - {"CVE-2026-115188"}, "5.2.12"),
    ],
)
def test_a_version_has_the_recorded_holes(version: str, found: set[str], cure: str) -> None:
    assert ids(version) == found
    assert KNOWN.cure(version) == cure


def test_holes_are_sorted_by_severity_and_counted_in_words() -> None:
    grades = [one.severity for one in KNOWN.of("5.1.0")]
    assert grades == sorted(grades, key=lambda one: one.rank)
    assert counted(KNOWN.of("5.1.0")) == "2 critical, 1 unrated, 2 high, 3 medium"
    assert told(KNOWN, "5.2.11") == (
        "Mautic 5.2.11 has 1 known security hole (1 unrated): CVE-2026-115191; fixed in 5.2.12"
    )
    assert told(KNOWN, "5.2.12") == ""


def test_a_prerelease_is_affected_too() -> None:
    assert "CVE-2026-115191" in ids("6.0.0-beta2")
    assert "CVE-2026-115191" in ids("6.0.10-rc1")


def test_text_that_is_no_version_has_no_holes() -> None:
    assert ids("of my own") == ids("") == set()
    assert KNOWN.cure("of my own") == ""


def test_a_hole_without_a_fix_has_no_cure() -> None:
    known = read(json.dumps({"advisories": [HOLE | {"affected": [{"introduced": "5.0.0"}]}]}).encode())
    assert known.cure("5.2.12") == ""
    assert "no release fixes all of them yet" in told(known, "5.2.12")


@given(st.tuples(st.integers(4, 8), st.integers(0, 5), st.integers(0, 15)))
def test_a_cure_is_newer_and_has_no_hole(numbers: tuple[int, int, int]) -> None:
    version = ".".join(map(str, numbers))
    cure = KNOWN.cure(version)
    assert bool(cure) == bool(KNOWN.of(version))
    if cure:
        assert not KNOWN.of(cure)
        assert tuple(map(int, cure.split("."))) > numbers


def test_the_end_of_support_depends_on_the_branch() -> None:
    found = KNOWN.support_of("5.2.12+double")
    assert found
    assert (found.branch, str(found.until), str(found.extended)) == ("5.2", "2026-06-30", "2028-06-30")
    assert KNOWN.support_of("5.20.1") is None


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"id": ""}, "is no id"),
        ({"id": "a b c"}, "is no id"),
        ({"severity": "awful"}, "Invalid enum value 'awful'"),
        ({"affected": []}, "OURS-1 names no versions"),
        ({"affected": [{"introduced": "5.x"}]}, "is no range of versions"),
        ({"affected": [{"introduced": "5.2.0", "fixed": "5.1.0"}]}, "5.1.0 cannot fix what 5.2.0 introduced"),
        ({"affected": [{"introduced": "5.0.0", "fixed": "", "more": 1}]}, "unknown field `more`"),
        ({"words": " "}, "the words of OURS-1"),
        ({"words": "a\nb"}, "the words of OURS-1"),
        ({"words": "a" * 201}, "the words of OURS-1"),
        ({"link": "http://agency.example"}, "the link of OURS-1"),
        ({"link": "https://a.example/|<!channel>"}, "the link of OURS-1"),
        ({"published": "yesterday"}, "Invalid RFC3339"),
        ({"extra": True}, "unknown field `extra`"),
    ],
)
def test_one_invalid_entry_rejects_the_whole_list(change: dict[str, Any], why: str) -> None:
    good = HOLE | {"id": "OURS-2"}
    with pytest.raises(InvalidAdvisories, match=why.replace(".", r"\.")):
        read(json.dumps({"advisories": [good, HOLE | change]}).encode())


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "not json", '{"advisories": [], "support": [{"branch": "5"}]}', '{"advisories": 1}']
)
def test_a_malformed_list_is_rejected(text: str) -> None:
    with pytest.raises(InvalidAdvisories):
        read(text.encode())


def test_a_duplicate_id_rejects_the_list() -> None:
    with pytest.raises(InvalidAdvisories, match="OURS-1 is in it twice"):
        read(json.dumps({"advisories": [HOLE, HOLE]}).encode())


@given(st.binary(max_size=200))
def test_any_file_content_is_accepted_or_rejected(data: bytes) -> None:
    with suppress(InvalidAdvisories):
        assert read(data)


def with_extra(folder: Path, content: str, sha256: str = "", **more: Any) -> Settings:
    file = folder / "more.json"
    file.write_text(content)
    digest = sha256 or hashlib.sha256(content.encode()).hexdigest()
    settings = settings_in(folder / "state")
    return replace(settings, advisories=replace(settings.advisories, extra=str(file), sha256=digest, **more))


def test_an_extra_list_counts_once_it_has_been_read(tmp_path: Path) -> None:
    settings = with_extra(tmp_path, json.dumps({"advisories": [HOLE]}))
    assert not advisories(settings).of("5.2.12")
    keep(settings)
    (tmp_path / "more.json").unlink()
    assert [one.id for one in advisories(settings).of("5.2.12")] == ["OURS-1"]
    assert len(advisories(settings).advisories) == len(KNOWN.advisories) + 1


def test_an_extra_list_overrides_our_entries(tmp_path: Path) -> None:
    rated = HOLE | {"id": "CVE-2026-115191", "severity": "critical"}
    settings = with_extra(tmp_path, json.dumps({"advisories": [rated], "support": []}))
    keep(settings)
    (found,) = [one for one in advisories(settings).advisories if one.id == "CVE-2026-115191"]
    assert found.severity == Severity.CRITICAL


@pytest.mark.parametrize(
    ("content", "sha256", "why"),
    [
        (json.dumps({"advisories": [HOLE]}), "0" * 64, "it is another file, or a damaged one"),
        (json.dumps({"advisories": [HOLE, HOLE | {"id": "?"}]}), "", "is not used, because it is not valid: “\\?” is"),
        (" " * ((1 << 20) + 1), "", "it is larger than 1 MiB"),
    ],
)
def test_an_unusable_extra_list_is_refused_and_our_list_still_counts(
    tmp_path: Path, content: str, sha256: str, why: str
) -> None:
    settings = with_extra(tmp_path, content, sha256)
    with pytest.raises(Refused, match=f"^`advisories.extra`: .*{why}"):
        keep(settings)
    assert advisories(settings) == KNOWN


def test_a_corrupted_cached_list_is_ignored(tmp_path: Path) -> None:
    settings = with_extra(tmp_path, json.dumps({"advisories": [HOLE]}))
    keep(settings)
    (kept,) = (tmp_path / "state" / "cache").glob("advisories-*.json")
    kept.write_text(json.dumps({"advisories": []}))
    assert advisories(settings) == KNOWN
    keep(settings)
    assert advisories(settings) != KNOWN


@pytest.mark.parametrize(
    ("refuse", "version", "refused"),
    [
        ("", "5.1.0", False),
        ("critical", "5.2.9", True),
        ("critical", "5.2.12", False),
        # An unrated hole counts as any severity.
        ("critical", "5.2.11", True),
        ("low", "5.2.11", True),
    ],
)
def test_a_version_is_refused_from_the_configured_severity_up(
    tmp_path: Path, refuse: str, version: str, refused: bool
) -> None:
    settings = settings_in(tmp_path, MAUTIC_OPS_ADVISORIES__REFUSE=refuse)
    if refused:
        with pytest.raises(Refused, match=rf"Mautic {version} has .* `advisories\.refuse` refuses such"):
            refuse_holes(settings, version)
    else:
        assert bool(refuse_holes(settings, version)) == bool(KNOWN.of(version))


def test_the_configured_severity_is_the_lowest_that_counts() -> None:
    known = read(
        json.dumps({"advisories": [HOLE | {"id": f"OURS-{one}", "severity": one} for one in Severity]}).encode()
    )
    found = known.of("5.2.0")
    assert {one.severity for one in at_least(found, "high")} == {"critical", "unrated", "high"}
    assert {one.severity for one in at_least(found, "critical")} == {"critical", "unrated"}
    assert at_least(found, "") == ()


def running(*versions: str) -> list[Tenant]:
    return [
        Tenant(f"c{n}", "local", "local", f"c{n}", "Running", "a.b", "small", version, Role.TENANT)
        for n, version in enumerate(versions)
    ]


def test_exposed_tenants_are_counted_by_version_worst_first() -> None:
    words = exposed(KNOWN, running("5.2.12", "5.2.11", "5.2.9", "5.2.9", "7.2.1", "6.0.8"))
    assert words.startswith("5 tenants run a Mautic version with known security holes: 1 on 6.0.8 (")
    holes = "5 holes: 1 critical, 1 unrated, 2 high, 1 medium, public since 2026-02-24, fixed in 5.2.12"
    assert f"; 2 on 5.2.9 ({holes})" in words
    assert "; and 1 more version. " in words
    assert exposed(KNOWN, running("5.2.12", "")) == ""
    assert exposed(KNOWN, running("5.2.11")).startswith("1 tenant runs a Mautic version")
