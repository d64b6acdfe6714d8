"""Releases: versions in their order, the steps of an upgrade, what is kept of archives, and blueprints on demand."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.fleet import releases
from bot.fleet.inventory import Fleet
from bot.guest.blueprint import build as building
from bot.guest.blueprint.archive import Archive
from bot.guest.blueprint.base import alone
from bot.guest.blueprint.build import Blueprint, build, remove_unfinished
from bot.guest.blueprint.recipe import recipe_digest
from bot.lxd.protocol import LxdUnavailable
from bot.model.labels import as_labels, label_of
from bot.model.plan import Refused
from bot.model.releases import Base, Release, Why, newest_first, number, path
from bot.model.releases import Path as Way
from bot.settings import ReleaseSettings, Settings
from tests.bot.blueprint.test_archive import released, zipped
from tests.support.bot import add_blueprint, settings_in
from tests.support.simulated_lxd import SimulatedLxd

BASE = Base((8, 2), (10, 11))


def a_release(version: str, mautic: str = "", php: tuple[str, str] = ("8.1.0", "8.3.99"), mariadb: str = "") -> Release:
    return Release(version, php, mariadb, mautic)


KNOWN = (
    a_release("5.1.1", "4.4.10", ("8.0.2", "8.2.99")),
    a_release("5.2.9", "5.0.0"),
    a_release("5.2.12", "5.0.0"),
    a_release("6.0.8", "5.2.0"),
    a_release("6.0.10", "5.2.0"),
    a_release("7.2.2", "6.0.0", mariadb="10.11.0"),
    a_release("7.4.0", "6.0.0", mariadb="11.4.0"),
    a_release("8.0.0", "7.0.0", ("8.4.0", "8.5.99")),
    a_release("6.0.10+double", "5.2.0"),
)


def steps(found: Way) -> list[str]:
    return [one.version for one in found.steps]


def test_versions_are_ordered_by_their_numbers_and_not_as_text() -> None:
    given = ["5.2.9", "nightly", "6.0.0-rc", "5.2.12", "6.0.0", "5.2.10+double", "5.10.0"]
    assert newest_first(given) == ["6.0.0", "6.0.0-rc", "5.10.0", "5.2.12", "5.2.10+double", "5.2.9", "nightly"]
    assert number("5.2.12+double") == number("5.2.12")


@pytest.mark.parametrize(
    ("current", "wanted", "way"),
    [
        ("5.2.9", "5.2.12", ["5.2.12"]),
        ("5.2.9", "6.0.10", ["6.0.10"]),
        ("5.1.1", "6.0.10", ["5.2.12", "6.0.10"]),
        ("5.1.1", "7.2.2", ["5.2.12", "6.0.10", "7.2.2"]),
        ("6.0.8", "7.2.2", ["7.2.2"]),
        ("5.2.12+double", "6.0.10+double", ["6.0.10+double"]),
    ],
)
def test_a_path_has_the_fewest_steps_and_the_newest_releases(current: str, wanted: str, way: list[str]) -> None:
    found = path(current, wanted, KNOWN, BASE)
    assert steps(found) == way
    assert found.direct == (len(way) == 1)
    assert found.why is None


@pytest.mark.parametrize(
    ("current", "wanted", "why", "words"),
    [
        ("5.2.9", "9.9.9", Why.UNKNOWN, "There is no release 9.9.9 in the settings; known: `8.0.0`, `7.4.0`"),
        ("of my own", "5.2.12", Why.UNKNOWN, "“of my own” is no version"),
        ("5.2.12", "5.2.12", Why.SAME, "runs Mautic 5.2.12 already"),
        ("6.0.8", "5.2.12", Why.OLDER, "Mautic 5.2.12 is older than 6.0.8"),
        ("5.2.12+double", "6.0.8", Why.OTHER, "one of them is a demo stand-in"),
        ("7.2.2", "8.0.0", Why.BASE, "Mautic 8.0.0 runs on PHP 8.4.0 to 8.5.99; the blueprint has 8.2."),
        ("7.2.2", "7.4.0", Why.BASE, "Mautic 7.4.0 needs MariaDB 11.4.0 or newer; the blueprint has 10.11."),
        ("4.3.0", "7.2.2", Why.NO_WAY, "can be reached from 6.0.0 or newer only"),
    ],
)
def test_where_there_is_no_path_the_result_says_why(current: str, wanted: str, why: Why, words: str) -> None:
    found = path(current, wanted, KNOWN, BASE)
    assert (found.why, found.steps) == (why, ())
    assert words in found.words
    assert found.words.endswith(".")


def test_a_release_that_does_not_run_here_is_no_step() -> None:
    between = a_release("6.0.10", "5.2.0", ("8.4.0", "8.5.99"))
    assert path("5.2.9", "7.2.2", (between, a_release("7.2.2", "6.0.0")), BASE).why == Why.NO_WAY


VERSIONS = st.tuples(st.integers(5, 7), st.integers(0, 2), st.integers(0, 2)).map(lambda one: ".".join(map(str, one)))


@given(st.dictionaries(VERSIONS, VERSIONS, max_size=8), VERSIONS, VERSIONS)
def test_each_step_of_a_path_accepts_the_one_before_and_no_path_is_shorter(
    known: dict[str, str], current: str, wanted: str
) -> None:
    there = [a_release(version, first) for version, first in known.items()]
    found = path(current, wanted, there, BASE)
    assert bool(found.steps) == (found.why is None)
    here = current
    for one in found.steps:
        assert one.takes(here)
        here = one.version
    if found.steps:
        assert here == wanted
    # What can be reached with one step, two, and so on, until nothing is new.
    reached, count, further = {current}, 0, {current}
    while further and wanted not in reached:
        further = {one.version for one in there if any(one.takes(before) for before in reached)} - reached
        reached |= further
        count += 1
    if found.steps:
        assert len(found.steps) == count
    elif found.why == Why.NO_WAY:
        assert wanted not in reached


@dataclass
class Archives:
    """Releases on disk, and settings that name them."""

    folder: Path

    def settings(self, *versions: str) -> Settings:
        """Return settings with these versions in [releases], each under its number."""
        found = {}
        for version in versions:
            file = zipped(self.folder / f"{version}.zip", released(version=version))
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            found[version.partition("+")[0]] = ReleaseSettings(str(file), digest)
        return replace(settings_in(self.folder / "state"), releases=found)


@pytest.fixture
def archives(tmp_path: Path) -> Archives:
    return Archives(tmp_path)


def test_the_requirements_of_a_release_are_kept_and_its_archive_is_not_read_again(
    archives: Archives, tmp_path: Path
) -> None:
    settings = archives.settings("5.2.12", "6.0.10+double")
    assert releases.releases(settings) == ()
    assert releases.keep(settings) == []
    (tmp_path / "5.2.12.zip").write_bytes(b"damaged meanwhile")
    found = releases.releases(settings)
    assert [one.version for one in found] == ["6.0.10+double", "5.2.12"]
    assert found[1] == Release("5.2.12", ("8.1.0", "8.3.99"), "10.2.7", "5.0.0")


def test_the_archive_of_the_blueprint_settings_is_a_release_too(archives: Archives, tmp_path: Path) -> None:
    settings = archives.settings("6.0.10")
    file = zipped(tmp_path / "old.zip", released())
    own = replace(settings.blueprint, archive=str(file), sha256=hashlib.sha256(file.read_bytes()).hexdigest())
    settings = replace(settings, blueprint=own)
    assert [(one.key, one.version) for one in releases.sources(settings)] == [
        ("blueprint", ""),
        ('releases."6.0.10"', "6.0.10"),
    ]
    assert releases.keep(settings) == []
    assert [one.version for one in releases.releases(settings)] == ["6.0.10", "5.2.12"]


def test_an_archive_in_the_home_folder_is_found_again(
    archives: Archives, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = archives.settings("6.0.10")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.zip").write_bytes(Path(settings.releases["6.0.10"].archive).read_bytes())
    mine = replace(settings.releases["6.0.10"], archive="~/mine.zip")
    for _ in range(2):
        assert releases.keep(replace(settings, releases={"6.0.10": mine})) == []


def test_each_wrong_archive_is_reported_and_the_others_are_read(archives: Archives, tmp_path: Path) -> None:
    settings = archives.settings("5.2.9", "5.2.12", "6.0.8", "6.0.10")
    assert releases.keep(replace(settings, releases={"6.0.8": settings.releases["6.0.8"]})) == []
    wrong = dict(settings.releases)
    wrong["5.2.9"] = settings.releases["5.2.12"]
    wrong["6.0.10"] = replace(settings.releases["6.0.10"], sha256="0" * 64)
    (tmp_path / "6.0.8.zip").unlink()
    found = releases.keep(replace(settings, releases=wrong))
    assert [one.split("`")[1] for one in found] == ['releases."6.0.10"', 'releases."6.0.8"', 'releases."5.2.9"']
    assert f"not {'0' * 64}" in found[0]
    assert "There is no archive at" in found[1]
    assert "The archive is Mautic 5.2.12, not 5.2.9." in found[2]
    assert "5.2.12" in [one.version for one in releases.releases(replace(settings, releases=wrong))]


def fleet_of(*versions: str, **more: SimulatedLxd) -> Fleet:
    lxd = SimulatedLxd()
    for version in versions:
        add_blueprint(lxd, version)
    return Fleet({"local": lxd, **more})


def nothing(_: str) -> None: ...


def test_an_existing_blueprint_is_found_and_a_missing_one_is_built_on_the_same_host(archives: Archives) -> None:
    far = SimulatedLxd()
    add_blueprint(far, "5.2.12+double")
    fleet, settings = fleet_of(far=far), archives.settings("6.0.10+double")
    assert releases.keep(settings) == []
    found = releases.ensure_blueprint(fleet, settings, "5.2.12", nothing)
    assert (found.version, found.server) == ("5.2.12+double", "far")
    made = releases.ensure_blueprint(fleet, settings, "6.0.10", nothing)
    assert (made.version, made.server, made.recipe) == ("6.0.10+double", "far", recipe_digest())
    assert releases.ensure_blueprint(fleet, settings, "6.0.10+double", nothing) == made
    assert fleet.servers["local"].instances() == []


def test_new_tenants_do_not_get_a_blueprint_that_was_built_on_demand(archives: Archives) -> None:
    fleet, settings = fleet_of("5.2.12+double"), archives.settings("6.0.10+double")
    made = releases.ensure_blueprint(fleet, settings, "6.0.10", nothing)
    assert made.on_demand
    assert fleet.blueprint().version == "5.2.12+double"
    assert fleet.blueprint("6.0.10+double") == made
    fleet.servers["local"].update(made.instance, as_labels(on_demand=""))
    assert fleet.blueprint().version == "6.0.10+double", "as after `blueprint build`"


def test_a_newer_recipe_makes_a_newer_blueprint_of_the_same_version(archives: Archives) -> None:
    fleet, settings = fleet_of("5.2.12+double"), archives.settings("5.2.12+double")
    sha256 = settings.releases["5.2.12"].sha256
    fleet.servers["local"].update(fleet.blueprint().instance, as_labels(recipe="r1", archive=sha256))
    before = fleet.blueprint()
    assert releases.ensure_blueprint(fleet, settings, "5.2.12+double", nothing) == before
    # The simulated build always uses the same name; a real one has a new name each time.
    fleet.servers["local"].rename(before.instance, "blueprint--old")
    made = releases.ensure_blueprint(fleet, settings, "5.2.12+double", nothing, current=True)
    assert (made.version, made.recipe) == (before.version, recipe_digest())
    assert fleet.blueprint("5.2.12+double") == made
    assert fleet.blueprint() == made, "it is of the version that new tenants get"
    assert releases.ensure_blueprint(fleet, settings, "5.2.12+double", nothing, current=True) == made


@pytest.mark.parametrize(
    ("version", "change", "why"),
    [
        ("9.9.9", {}, "There is no release 9.9.9 in the settings; known: `6.0.10`."),
        ("6.0.10", {"sha256": "0" * 64}, "it is another file, or a damaged one"),
        ("6.0.10", {"archive": "/nowhere.zip"}, "There is no archive at /nowhere.zip"),
    ],
)
def test_a_blueprint_that_cannot_be_built_is_refused(
    archives: Archives, version: str, change: dict[str, str], why: str
) -> None:
    settings = archives.settings("6.0.10")
    assert releases.keep(settings) == []
    changed = {name: replace(one, **change) for name, one in settings.releases.items()}
    with pytest.raises(Refused, match=why.replace(".", r"\.")):
        releases.ensure_blueprint(fleet_of(), replace(settings, releases=changed), version, nothing)


def test_a_release_that_needs_another_php_is_refused(tmp_path: Path, archives: Archives) -> None:
    settings = archives.settings("8.0.0")
    file = zipped(tmp_path / "8.zip", released(version="8.0.0", minimum_php_version="8.6.0", maximum_php_version="8.7"))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    settings = replace(settings, releases={"8.0.0": ReleaseSettings(str(file), digest)})
    assert releases.keep(settings) == [], "its requirements are known all the same"
    assert releases.releases(settings)[0].php_range == "8.6-8.7"
    with pytest.raises(Refused, match=r"Mautic 8\.0\.0 runs on PHP 8\.6\.0 to 8\.7; blueprints have 8\.2 or 8\.4"):
        releases.ensure_blueprint(fleet_of(), settings, "8.0.0", nothing)


def test_no_blueprint_is_built_while_a_server_that_may_have_it_is_silent(archives: Archives) -> None:
    far = SimulatedLxd()
    far.fail_next("instances", LxdUnavailable("The server `far` does not answer."))
    with pytest.raises(LxdUnavailable, match="far"):
        releases.ensure_blueprint(fleet_of(far=far), archives.settings("6.0.10"), "6.0.10", nothing)


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Blueprint]:
    """Return a function that builds on a simulated server, without what runs inside the container."""
    for part in ("install_packages", "_furnish", "_install"):
        monkeypatch.setattr(building, part, lambda *_: None)

    def made(lxd: SimulatedLxd, version: str = "6.0.10", **more: Any) -> Blueprint:
        lxd.import_image(__file__, "base", {})
        archive = Archive(tmp_path / "mautic.zip", "a" * 64, version)
        return build(lxd, archive, base="base", cache=tmp_path, **{"progress": nothing, **more})

    return made


def test_of_two_simultaneous_builds_one_builds_and_the_other_finds_the_blueprint(
    builder: Callable[..., Blueprint], monkeypatch: pytest.MonkeyPatch
) -> None:
    lxd, began, go_on = SimulatedLxd(), threading.Event(), threading.Event()
    built: list[int] = []

    def furnish(*_: object) -> None:
        built.append(1)
        began.set()
        assert go_on.wait(10)

    monkeypatch.setattr(building, "_furnish", furnish)
    found: list[Blueprint] = []
    waits = threading.Event()

    def build_it() -> None:
        found.append(builder(lxd, on_demand=True, progress=lambda said: waits.set() if "waiting" in said else None))

    threads = [threading.Thread(target=build_it) for _ in range(2)]
    threads[0].start()
    assert began.wait(10)
    assert not waits.is_set()
    threads[1].start()
    assert waits.wait(10)
    go_on.set()
    for one in threads:
        one.join(20)
    assert len(found) == 2
    assert found[0] == found[1]
    assert built == [1]
    assert len(lxd.instances()) == 1


def left_by_a_kill(lxd: SimulatedLxd) -> Sequence[str]:
    """Create what killed builds leave: one killed before the container was renamed, one before it got its role."""
    lxd.import_image(__file__, "base", {})
    names = ("blueprint--6-0-10-aaaaaa123456--building", "blueprint--5-2-12-bbbbbb123456")
    for name in names:
        lxd.create(name, "base", config={}, devices={})
        lxd.start(name)
    return names


def test_what_a_killed_build_left_is_removed_by_the_next_build_or_by_maintenance(
    builder: Callable[..., Blueprint], tmp_path: Path
) -> None:
    lxd = SimulatedLxd()
    left = left_by_a_kill(lxd)
    made = builder(lxd)
    assert left[0] not in [one.name for one in lxd.instances()]
    with alone(tmp_path / "build.lock"):
        assert remove_unfinished(lxd, tmp_path, time.time() + 60) == [], "another build may be under way"
    assert remove_unfinished(lxd, tmp_path, time.time() - 60) == [], "another machine may be building it"
    assert remove_unfinished(lxd, tmp_path, time.time() + 60) == [left[1]]
    assert [one.name for one in lxd.instances()] == [made.instance]


def test_new_tenants_get_a_blueprint_once_a_person_has_it_built(builder: Callable[..., Blueprint]) -> None:
    lxd = SimulatedLxd()
    made = builder(lxd, on_demand=True)
    assert label_of(lxd.instance(made.instance).config, "on-demand") == "1"
    assert builder(lxd, on_demand=True) == made
    assert label_of(lxd.instance(made.instance).config, "on-demand") == "1"
    assert builder(lxd) == made
    assert label_of(lxd.instance(made.instance).config, "on-demand") == ""


def test_on_real_servers_a_blueprint_is_built_by_the_recipe(
    archives: Archives, builder: Callable[..., Blueprint], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = archives.settings("6.0.10+double")
    settings = replace(
        settings,
        lxd=replace(settings.lxd, endpoint="/unix.socket"),
        blueprint=replace(settings.blueprint, base="base"),
    )
    fleet, told = fleet_of("5.2.12+double"), []
    found = releases.ensure_blueprint(fleet, settings, "6.0.10", told.append)
    assert (found.version, found.double, found.on_demand) == ("6.0.10+double", True, True)
    assert found.archive == settings.releases["6.0.10"].sha256
    assert told[0] == "making the container"
