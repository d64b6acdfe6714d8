"""The in-tenant tool during an upgrade: what can be tested without a tenant."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bot.guest.blueprint.mautic_ctl import cache, evidence, migrations, page, stage, swap, system, trees
from bot.guest.blueprint.mautic_ctl.system import CtlError
from tests.mautic_double.build import build

V5, V6 = "5.2.12+double", "6.0.10+double"


def unzip(archive: Path, folder: Path) -> None:
    """Unpack with the time of each file, as the `unzip` in every tenant does."""
    with zipfile.ZipFile(archive) as zipped:
        for info in zipped.infolist():
            path = Path(zipped.extract(info, folder))
            moment = datetime(*info.date_time, tzinfo=UTC).timestamp()
            os.utime(path, (moment, moment))


def run(*words: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run a program as the tool does, except for unzip and tar."""
    if "unzip" in words:
        unzip(Path(words[-3]), Path(words[-1]))
        return subprocess.CompletedProcess(words, 0, "", "")
    if "tar" in words:
        with tarfile.open(words[-3]) as tar:
            tar.extractall(words[-1], filter="data")
        return subprocess.CompletedProcess(words, 0, "", "")
    return system.run(*words, **more)


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Place:
    """The trees of a closed tenant in a folder; the fixture lays the double's 5.2.12."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.serving = root / "mautic"
        self.archive = root / "release"
        self.opened = False

    def lay(self, release: str) -> None:
        """Lay a release, and write the listing of its files."""
        build(self.root / "first.zip", release)
        unzip(self.root / "first.zip", self.serving)
        for folder in trees.FOLDERS:
            (self.serving / folder).mkdir(parents=True, exist_ok=True)
        trees.write_listing(self.root / "release-files", trees.files_of(self.serving))

    def put(self, path: str, text: str = "the client's") -> None:
        """Write a file into the tree that serves."""
        (self.serving / path).parent.mkdir(parents=True, exist_ok=True)
        (self.serving / path).write_text(text)

    def stage(self, release: str) -> dict[str, Any]:
        """Push an archive and stage it."""
        sha256 = build(self.archive, release)
        return stage.stage({"version": f"{release}+double", "sha256": sha256})

    def files(self, tree: str = "mautic") -> dict[str, str]:
        """Return the text of every file of a tree by path, following links."""
        top = self.root / tree
        found = {}
        for folder, _, names in os.walk(top, followlinks=True):
            for name in names:
                path = Path(folder) / name
                found[str(path.relative_to(top))] = path.read_text(errors="replace")
        return found


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    made = Place(tmp_path)
    where = {
        "MAUTIC": tmp_path / "mautic", "NEXT": tmp_path / "mautic.next", "BEFORE": tmp_path / "mautic.before",
        "LISTING": tmp_path / "release-files", "NEXT_LISTING": tmp_path / "release-files.next",
        "STAGED": tmp_path / "staged.json", "CLOSED": tmp_path / "sealed", "ARCHIVE": tmp_path / "release",
        "PACKED": tmp_path / "cache.tar.gz",
    }  # fmt: skip
    for module in (trees, stage, swap, cache, migrations, evidence):
        for name, path in where.items():
            if hasattr(module, name):
                monkeypatch.setattr(module, name, path)

    def version() -> str:
        return str(json.loads((tmp_path / "mautic/app/release_metadata.json").read_text())["version"])

    monkeypatch.setattr(stage, "mautic_version", version)
    monkeypatch.setattr(swap, "mautic_version", version)
    monkeypatch.setattr(stage, "php_version", lambda: "8.2.29")
    monkeypatch.setattr(cache, "php_version", lambda: "8.2.29")
    monkeypatch.setattr(cache, "read_parameters", lambda: {"site_url": "https://x.test"})
    monkeypatch.setattr(stage, "sql", lambda _: [["10.11.14-MariaDB-0+deb12u2"]])
    monkeypatch.setattr(stage, "measure", lambda _: {"free": 1 << 30})
    monkeypatch.setattr(stage, "run", run)
    monkeypatch.setattr(stage, "rights", lambda _: None)
    monkeypatch.setattr(trees, "open_themes", lambda *_: None)
    monkeypatch.setattr(swap, "await_systemd", lambda: None)
    monkeypatch.setattr(swap, "systemctl", lambda *_: None)
    (tmp_path / "sealed").touch()
    made.lay("5.2.12")
    return made


def clients(place: Place) -> None:
    """Give the tenant files of the client's own."""
    for path in (
        "config/local.php", "media/files/a.pdf", "media/images/logo.png", "media/shared/b.txt", "media/css/custom.css",
        "plugins/AcmeBundle/AcmeBundle.php", "themes/acme/config.json", "translations/de/x.ini", "app/patch.php",
        "plugins/MauticSocialBundle/extra.php", "var/logs/mautic_prod-2026-01-01.php", "var/cache/ip_data/db.mmdb",
        "var/import/list.csv", "var/tmp/rest", "var/cache/prod/container.json", "var/outbox.log",
    ):  # fmt: skip
        place.put(path)
    place.put("themes/blank/config.json", "changed")


OWN = {
    "plugins": ["AcmeBundle"],
    "themes": ["acme"],
    "translations": ["de"],
    "overlay": ["app/patch.php", "media/css/custom.css", "media/shared/b.txt", "plugins/MauticSocialBundle/extra.php"],
    "changed": ["themes/blank/config.json"],
    "known": True,
}
KEPT = (
    "config/local.php", "media/files/a.pdf", "media/images/logo.png", "media/shared/b.txt", "media/css/custom.css",
    "plugins/AcmeBundle/AcmeBundle.php", "themes/acme/config.json", "translations/de/x.ini", "app/patch.php",
    "plugins/MauticSocialBundle/extra.php", "var/logs/mautic_prod-2026-01-01.php", "var/cache/ip_data/db.mmdb",
    "var/import/list.csv", "var/outbox.log",
)  # fmt: skip


def test_the_clients_own_files_are_told_apart_from_the_releases(place: Place) -> None:
    clients(place)
    assert trees.own(place.serving, trees.read_listing(trees.LISTING), {}) == OWN


def test_without_a_listing_the_clients_own_is_what_the_next_release_lacks(place: Place) -> None:
    clients(place)
    trees.LISTING.unlink()
    assert trees.own(place.serving, {}, {})["known"] is False
    assert trees.own(place.serving, {}, {})["plugins"] == [], "nothing tells it apart yet"
    own = place.stage("6.0.10")["own"]
    assert own == OWN | {"overlay": [], "changed": [], "known": False}
    assert (trees.NEXT / "plugins/AcmeBundle/AcmeBundle.php").exists()


def test_a_plugin_that_the_next_release_also_has_counts_as_changed(place: Place) -> None:
    place.put("plugins/AcmeBundle/AcmeBundle.php")
    following = {"plugins/AcmeBundle/AcmeBundle.php": "1 1"}
    own = trees.own(place.serving, trees.read_listing(trees.LISTING), following)
    assert (own["plugins"], own["changed"]) == ([], ["plugins/AcmeBundle"])


def test_a_release_is_staged_beside_the_one_that_serves(place: Place) -> None:
    clients(place)
    before = place.files()
    answer = place.stage("6.0.10")
    assert (answer["version"], answer["before"], answer["own"]) == (V6, V5, OWN)
    assert place.files() == before
    staged = place.files("mautic.next")
    assert {"plugins/AcmeBundle/AcmeBundle.php", "themes/acme/config.json", "app/patch.php"} <= staged.keys()
    assert staged["media/css/app.css"] != before["media/css/app.css"]
    assert staged["themes/blank/config.json"] != "changed"
    assert not place.archive.exists()
    assert trees.staged_version() == V6


def test_staging_again_only_updates_the_clients_own_files(place: Place) -> None:
    clients(place)
    place.stage("6.0.10")
    (trees.NEXT / "mark").touch()
    place.put("themes/newer/config.json")
    place.put("plugins/AcmeBundle/AcmeBundle.php", "newer")
    trees.remove(place.serving / "themes/acme")
    place.stage("6.0.10")
    assert (trees.NEXT / "mark").exists(), "it was not unpacked again"
    staged = place.files("mautic.next")
    assert "themes/newer/config.json" in staged
    assert "themes/acme/config.json" not in staged
    assert staged["plugins/AcmeBundle/AcmeBundle.php"] == "newer"
    place.stage("5.2.11")
    assert not (trees.NEXT / "mark").exists()


def test_a_release_may_be_a_tar(place: Place) -> None:
    build(place.root / "one.zip", "6.0.10")
    unzip(place.root / "one.zip", place.root / "one")
    with tarfile.open(place.archive, "w:gz") as tar:
        tar.add(place.root / "one", ".")
    assert stage.stage({"version": V6, "sha256": digest_of(place.archive)})["version"] == V6
    assert "6.0.10" in place.files("mautic.next")["media/css/app.css"]


def test_failed_staging_leaves_nothing_that_could_be_swapped(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(why: str, version: str = V6, sha256: str = "") -> None:
        with pytest.raises(CtlError, match=why):
            stage.stage({"version": version, "sha256": sha256 or digest_of(place.archive)})
        assert trees.staged_version() == ""

    build(place.archive, "6.0.10")
    refused("as another file than was meant", sha256="0" * 64)
    refused("says that it is 6.0.10", version="6.0.11+double")
    place.archive.unlink()
    refused("the release's archive is not there", sha256="0" * 64)
    place.archive.write_bytes(b"no archive")
    refused(r"has no app/release_metadata\.json", sha256=digest_of(place.archive))
    build(place.archive, "6.0.10")
    monkeypatch.setattr(stage, "measure", lambda _: {"free": stage.LEAVE + 1024})
    refused(r"unpacked 6\.0\.10\+double takes \d+ KiB, and its disk has room for 1\.0 KiB")


def test_a_half_unpacked_tree_does_not_count_as_staged(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(*words: str, **more: Any) -> subprocess.CompletedProcess[str]:
        run(*words, **more)
        return subprocess.CompletedProcess(words, 50, "", "unzip: write error (disk full?)\n")

    place.stage("6.0.10")
    with monkeypatch.context() as patch:
        patch.setattr(stage, "run", half)
        with pytest.raises(CtlError, match=r"could not be unpacked: unzip: write error"):
            place.stage("5.2.11")
    assert (trees.NEXT.is_dir(), trees.staged_version()) == (True, "")
    with pytest.raises(CtlError, match="what is staged is not"):
        swap.swap({"version": V6})


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, ""),
        ({"minimum_php_version": "8.4.0"}, "runs on PHP 8.4.0 to 8.3.99, and here is 8.2.29"),
        ({"maximum_php_version": "8.1.99"}, "runs on PHP 8.1.0 to 8.1.99"),
        ({"minimum_mariadb_version": "11.4.0"}, "needs MariaDB 11.4.0 or newer, and here is 10.11.14-MariaDB"),
        ({"minimum_mariadb_version": "10.11.14"}, ""),
        ({"minimum_mautic_version": "5.3.0"}, "can be reached from 5.3.0 on, and here is 5.2.12"),
        ({"minimum_mautic_version": "5.2.12"}, ""),
        ({"minimum_mautic_version": "", "minimum_mariadb_version": None}, ""),
    ],
)
def test_a_release_with_unmet_requirements_is_refused_with_the_reason(changes: dict[str, Any], why: str) -> None:
    metadata = {
        "version": "6.0.10", "minimum_php_version": "8.1.0", "maximum_php_version": "8.3.99",
        "minimum_mariadb_version": "10.2.7", "minimum_mautic_version": "5.0.0",
    }  # fmt: skip

    def check() -> None:
        stage.check_runs_here(metadata | changes, "5.2.12+double", "8.2.29", "10.11.14-MariaDB-0+deb12u2")

    if why:
        with pytest.raises(CtlError, match=why):
            check()
    else:
        check()


def test_a_swap_keeps_the_clients_files_and_leaves_the_old_tree_whole_beside_it(place: Place) -> None:
    clients(place)
    before = place.files()
    place.stage("6.0.10")
    place.put("media/files/late.pdf")
    place.put("themes/late/config.json")
    place.put("config/local.php", "saved late")
    assert swap.swap({"version": V6}).items() >= {"version": V6, "before": V5}.items()
    now = place.files()
    assert {path: now[path] for path in KEPT if path != "config/local.php"} == {
        path: before[path] for path in KEPT if path != "config/local.php"
    }
    assert now["config/local.php"] == "saved late"
    assert {"media/files/late.pdf", "themes/late/config.json"} <= now.keys()
    assert not {"var/tmp/rest", "var/cache/prod/container.json"} & now.keys(), "these belong to the old code"
    assert "6.0.10" in now["media/css/app.css"]
    assert "app/migrations/Version20230901000000.php" not in now
    assert place.files("mautic.before").items() >= before.items() - {("config/local.php", before["config/local.php"])}
    assert (trees.BEFORE / "media/files").is_symlink()
    assert trees.own(place.serving, trees.read_listing(trees.LISTING), {})["plugins"] == ["AcmeBundle"]
    assert not trees.STAGED.exists()


@pytest.mark.parametrize("is_known", [True, False])
def test_files_saved_among_the_releases_own_are_swapped_as_they_were_at_the_closing(
    place: Place, is_known: bool
) -> None:
    """As Mautic saves `media/dashboards/<user>/` beside the release's `media/dashboards/default.json`."""
    for name in ("mine", "gone"):
        place.put(f"media/css/2/{name}.json", "saved before")
    place.put("media/css/custom.css")
    if not is_known:
        trees.LISTING.unlink()
    place.stage("6.0.10")
    place.put("media/css/2/mine.json", "saved after the stage")
    place.put("media/css/2/late.json")
    trees.remove(place.serving / "media/css/2/gone.json")
    before = place.files()
    swap.swap({"version": V6})
    now = place.files()
    assert {path: text for path, text in now.items() if path.startswith("media/css/2/")} == {
        "media/css/2/mine.json": "saved after the stage",
        "media/css/2/late.json": "the client's",
    }
    assert now["media/css/custom.css"] == "the client's"
    assert "6.0.10" in now["media/css/app.css"]
    assert place.files("mautic.before").items() >= before.items()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_folder_of_the_old_release_with_the_clients_files_belongs_to_the_web_server(place: Place) -> None:
    place.put("media/old/theirs.css")
    trees.write_listing(trees.LISTING, trees.files_of(place.serving))
    place.put("media/old/deep/mine.json")
    place.stage("6.0.10")
    os.chown(trees.NEXT / "media", 4242, 4343)
    # Files that were laid into another container arrive like this: in folders that belong to root.
    (trees.NEXT / "media/css/2").mkdir()
    swap.swap({"version": V6})
    assert not (place.serving / "media/old/theirs.css").exists()
    assert (place.serving / "media/old/deep/mine.json").read_text() == "the client's"
    for folder in ("old", "css/2"):
        seen = (place.serving / "media" / folder).stat()
        assert (seen.st_uid, seen.st_gid) == (4242, 4343)


def test_moving_files_among_the_releases_own_follows_no_link(place: Place) -> None:
    outside = place.root / "outside"
    outside.mkdir()
    (outside / "custom.css").write_text("ours")
    place.put("media/css/custom.css")
    (place.serving / "media/css/out").symlink_to(outside)
    place.stage("6.0.10")
    # The path to the file leads out of the tree.
    trees.remove(trees.NEXT / "media/css")
    (trees.NEXT / "media/css").symlink_to(outside)
    swap.swap({"version": V6})
    assert os.readlink(place.serving / "media/css/out") == str(outside)
    assert not (place.serving / "media/css").is_symlink()
    assert (place.serving / "media/css/custom.css").read_text() == "the client's"
    assert {path.name: path.read_text() for path in outside.iterdir()} == {"custom.css": "ours"}


def test_swapping_again_changes_nothing(place: Place) -> None:
    clients(place)
    place.stage("6.0.10")
    swap.swap({"version": V6})
    now = place.files()
    place.put("media/files/after.pdf")
    assert swap.swap({"version": V6})["before"] == V5
    assert place.files() == now | {"media/files/after.pdf": "the client's"}
    with pytest.raises(CtlError, match="is not staged"):
        swap.swap({"version": "7.2.2+double"})


def test_an_open_tenant_or_another_version_is_not_swapped(place: Place) -> None:
    place.stage("6.0.10")
    with pytest.raises(CtlError, match="what is staged is not 7"):
        swap.swap({"version": "7.2.2+double"})
    (place.root / "sealed").unlink()
    with pytest.raises(CtlError, match="it is open"):
        swap.swap({"version": V6})
    assert json.loads((place.serving / "app/release_metadata.json").read_text())["version"] == V5


def test_a_swap_that_is_interrupted_anywhere_can_be_completed(
    tmp_path_factory: pytest.TempPathFactory, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is interrupted after each change of a name, a link or a folder."""
    clients(place)
    place.stage("6.0.10")
    kept = tmp_path_factory.mktemp("kept")
    # The state before the swap, without a folder that would only take time.
    for tree in (place.serving, trees.NEXT):
        trees.remove(tree / "app/double")
    subprocess.run(["cp", "-al", f"{place.root}/.", str(kept)], check=True)
    swap.swap({"version": V6})
    whole = place.files(), place.files("mautic.before"), (place.root / "release-files").read_text()

    class Cut(BaseException):
        """Like a power cut: nothing handles it."""

    def is_cut(at: int) -> bool:
        """Swap, interrupted after the nth change; return whether it was interrupted."""
        count = 0

        def cutting(real: Callable[..., Any]) -> Callable[..., Any]:
            def done(*words: Any, **more: Any) -> Any:
                nonlocal count
                count += 1
                found = real(*words, **more)
                if count == at:
                    raise Cut
                return found

            return done

        with monkeypatch.context() as patch:
            for name in ("rename", "replace", "symlink_to", "unlink", "mkdir"):
                patch.setattr(Path, name, cutting(getattr(Path, name)))
            patch.setattr(trees, "copy", cutting(trees.copy))
            try:
                swap.swap({"version": V6})
            except Cut:
                return True
        return False

    for cuts in range(100):
        for path in place.root.iterdir():
            trees.remove(path)
        subprocess.run(["cp", "-al", f"{kept}/.", str(place.root)], check=True)
        if not is_cut(cuts + 1):
            break
        swap.swap({"version": V6})
        found = place.files(), place.files("mautic.before"), (place.root / "release-files").read_text()
        assert found == whole, f"cut after {cuts + 1}"
    assert 40 < cuts < 99


def test_discarding_does_not_change_the_serving_tree(place: Place) -> None:
    clients(place)
    place.stage("6.0.10")
    swap.swap({"version": V6})
    place.stage("6.0.10")
    now = place.files()
    assert stage.discard({}) == {}
    assert place.files() == now
    assert not trees.NEXT.exists()
    assert not trees.BEFORE.exists()


def packed(label: dict[str, str] | None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        text = json.dumps(label).encode()
        info = tarfile.TarInfo(cache.LABEL if label is not None else "prod/container.json")
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text))
    return buffer.getvalue()


def test_a_cache_is_laid_only_if_it_was_made_for_the_same_code(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked: list[Path] = []
    monkeypatch.setattr(cache, "_unpack", lambda folder: unpacked.append(folder))
    monkeypatch.setattr(cache, "run", lambda *words, **_: Path(words[-1]).mkdir(parents=True, exist_ok=True))
    with pytest.raises(CtlError, match="nothing is staged"):
        cache.lay_cache({})
    place.put("plugins/AcmeBundle/AcmeBundle.php")
    place.stage("6.0.10")
    right = cache.cache_of(trees.NEXT, trees.read_listing(trees.NEXT_LISTING))
    assert right["version"] == V6
    for name in right:
        cache.PACKED.write_bytes(packed(right | {name: "other"}))
        with pytest.raises(CtlError, match=f"the cache is of another {name}, and would"):
            cache.lay_cache({})
    for wrong in (packed(None), b"no tar", packed({})):
        cache.PACKED.write_bytes(wrong)
        with pytest.raises(CtlError, match=r"the (packed )?cache is"):
            cache.lay_cache({})
    assert unpacked == []
    cache.PACKED.write_bytes(packed(right))
    cache.lay_cache({})
    assert unpacked == [trees.NEXT / "var/cache/prod"]
    swap.swap({"version": V6})
    assert cache.is_carried()
    place.put("plugins/AcmeBundle/AcmeBundle.php", "the client saved another one meanwhile")
    assert not cache.is_carried(), "it would break, so it is rebuilt"


@pytest.mark.parametrize(
    ("parameters", "file"),
    [
        ({"api_rate_limiter_limit": 10}, ""),
        ({"db_host_ro": "replica.example"}, ""),
        ({}, "config_local.php"),
        ({}, "security_local.php"),
    ],
)
def test_compiled_in_settings_of_a_client_make_it_a_different_cache(
    place: Place, parameters: dict[str, Any], file: str
) -> None:
    """Else the client's API rate limit or single sign-on would be off until somebody clears the cache."""
    folder = place.serving / "config"
    place.put("config/local.php")
    place.put("config/parameters_local.php")
    as_a_new_one = {"api_rate_limiter_limit": 0, "api_rate_limiter_cache": {"adapter": "x"}, "db_host_ro": None}
    assert cache.configuration(folder, {}) == cache.configuration(folder, as_a_new_one) == ""
    if file:
        place.put(f"config/{file}")
    own = cache.configuration(folder, as_a_new_one | parameters)
    assert own
    assert own == cache.configuration(folder, as_a_new_one | parameters)
    assert own != cache.configuration(folder, as_a_new_one | {"api_rate_limiter_limit": 1000})


def test_odd_configuration_files_do_not_delay_reading(place: Place) -> None:
    folder = place.serving / "config"
    place.put("config/a.php/file")
    (folder / "b.php").symlink_to("nowhere")
    os.mkfifo(folder / "c.php")
    assert cache.configuration(folder, {}) == ""
    with (folder / "d.php").open("w") as sparse:
        sparse.truncate(50 << 30)
    assert cache.configuration(folder, {})


class Table:
    """A fake table of migrations, and a Mautic whose `migrate` behaves as the test sets it."""

    def __init__(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[str] | None = []
        self.code, self.runs, self.said = 0, 99, "[OK] Successfully migrated"
        monkeypatch.setattr(migrations, "sql", self.sql)
        monkeypatch.setattr(migrations, "console", self.console)
        monkeypatch.setattr(migrations, "console_for", self.console_for)
        monkeypatch.setattr(migrations, "known_secrets", lambda: ["s3cr3t"])

    def sql(self, statement: str, *_: str) -> list[list[str]]:
        if statement.startswith("SHOW TABLES"):
            return [] if self.rows is None else [["migrations"]]
        if statement.startswith("SHOW GLOBAL"):
            return [["Handler_write", str(10 * len(self.rows or []))], ["Handler_update", "3"]]
        assert self.rows is not None
        if statement.startswith("SELECT"):
            return [[row.replace("\\", "\\\\")] for row in self.rows]
        self.rows += [part.split("'")[1].replace("\\\\", "\\") for part in statement.split("VALUES")[1].split(", (")]
        return []

    def console(self, *words: str) -> subprocess.CompletedProcess[str]:
        if words[0].endswith("sync-metadata-storage"):
            self.rows = self.rows or []
        if words[1:] == ("--add", "--all"):
            assert self.rows is not None, "there is no table to write into"
            self.rows += sorted(migrations.available(migrations.MAUTIC) - set(self.rows))
        new = migrations.available(migrations.MAUTIC) - set(self.rows or [])
        return subprocess.CompletedProcess([], int(bool(new)) if words[0].endswith("up-to-date") else 0, "", "")

    def console_for(self, _: int, *words: str) -> subprocess.CompletedProcess[str]:
        assert self.rows is not None, "doctrine would make the table, and then all are new"
        new = sorted(migrations.available(migrations.MAUTIC) - set(self.rows))
        self.rows += new[: self.runs]
        return subprocess.CompletedProcess([], self.code, self.said, "")


@pytest.fixture
def table(place: Place, monkeypatch: pytest.MonkeyPatch) -> Table:
    """The table of a tenant whose tree was swapped to 6.0.10 from 5.2.12, whose migrations are all recorded."""
    made = Table(place, monkeypatch)
    made.rows = sorted(migrations.available(place.serving))
    place.stage("6.0.10")
    swap.swap({"version": V6})
    return made


def test_executed_migrations_are_read_from_their_table_and_rows_are_counted(table: Table) -> None:
    done = migrations.migrate({})
    assert (done["done"], done["ran"], done["skipped"]) == (True, ["20250801000000", "20250915000000"], [])
    assert (done["rows"], done["unregistered"]) == ({"inserted": 20, "updated": 0, "deleted": 0}, 1)
    assert migrations.up_to_date({}) == {"up_to_date": True, "code": 0, "new": [], "unregistered": 1}
    assert migrations.migrate({})["ran"] == []


def test_migrations_skipped_by_a_pre_check_are_recorded_after_a_success(table: Table) -> None:
    table.runs = 1
    done = migrations.migrate({})
    assert (done["ran"], done["skipped"]) == (["20250801000000"], ["20250915000000"])
    assert migrations.up_to_date({})["up_to_date"]


def test_a_failed_migration_is_reported_without_secrets_and_skipped_ones_are_not_recorded(
    table: Table,
) -> None:
    table.code, table.runs, table.said = 1, 1, "SQLSTATE[42S21] with s3cr3t"
    done = migrations.migrate({})
    assert (done["done"], done["code"], done["ran"], done["skipped"]) == (False, 1, ["20250801000000"], [])
    assert done["output"] == "SQLSTATE[42S21] with ***"
    assert migrations.up_to_date({})["new"] == ["20250915000000"]
    table.code = migrations.LATE
    assert "did not end within 7 seconds" in migrations.migrate({"seconds": 7})["output"]


def test_a_database_that_dies_during_a_migration_is_reported(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """This happens on a full disk."""
    asked = table.console_for

    def ended(seconds: int, *words: str) -> subprocess.CompletedProcess[str]:
        asked(seconds, *words)
        monkeypatch.setattr(migrations, "sql", gone)
        return subprocess.CompletedProcess([], 1, "", "MySQL server has gone away")

    def gone(*_: str) -> list[list[str]]:
        raise CtlError("the database refused a statement (no connection)")

    monkeypatch.setattr(migrations, "console_for", ended)
    done = migrations.migrate({})
    assert (done["done"], done["code"], done["ran"], done["rows"]["inserted"]) == (False, 1, [], 0)
    assert done["output"] == "MySQL server has gone away\nThen the database refused a statement (no connection)."


def test_without_records_the_migrations_of_the_old_tree_count_as_done(table: Table) -> None:
    table.rows = None
    done = migrations.migrate({})
    assert done["ran"] == ["20250801000000", "20250915000000"]
    assert "Mautic\\Migrations\\Version20230901000000" in (table.rows or [])
    table.rows = None
    trees.remove(trees.BEFORE)
    with pytest.raises(CtlError, match="no old tree says which were done"):
        migrations.migrate({})


def test_migrations_are_recorded_only_if_none_is(table: Table, place: Place) -> None:
    assert migrations.record({}) == {"recorded": 0}
    assert len(table.rows or []) == 4, "those of 6.0 are not done"
    table.rows = None
    assert migrations.record({}) == {"recorded": 5}
    assert set(table.rows or []) == migrations.available(place.serving)


def test_the_database_of_an_open_tenant_is_not_changed(table: Table, place: Place) -> None:
    (place.root / "sealed").unlink()
    with pytest.raises(CtlError, match="it is open"):
        migrations.migrate({})
    assert len(table.rows or []) == 4


def test_a_schema_is_reported_in_order_and_cut_to_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["form_results_1_a column email", "leads column id", "emails column id"]
    ordered = ["emails column id", "leads column id", "form_results_1_a column email"]
    assert evidence.shortened(lines) == (ordered, True)
    monkeypatch.setattr(evidence, "LINES", 2)
    assert evidence.shortened(lines) == (ordered[:2], False)
    monkeypatch.setattr(evidence, "LETTERS", 20)
    assert evidence.shortened(lines) == (ordered[:1], False)


def test_errors_since_a_time_are_counted_by_message_without_secrets(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "known_secrets", lambda: ["s3cr3t"])
    place.put(
        "var/logs/mautic_prod-2026-01-02.php",
        "[2026-01-01T00:00:00.000000+00:00] mautic.ERROR: too old [] []\n"
        "[2026-01-02T15:29:17.146111+00:00] mautic.ERROR: contact 17 has s3cr3t [] []\n"
        "[2026-01-02T15:29:18.146111+00:00] mautic.CRITICAL: contact 18 has s3cr3t [] []\n"
        "[2026-01-02T15:29:19.146111+00:00] mautic.NOTICE: none [] []\n",
    )
    assert evidence._errors(1_767_312_000) == {"contact # has *** [] []": 2}


def test_a_plugin_that_is_unknown_or_missing_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [["AcmeBundle", "1.5", "0"], ["GoneBundle", "2.0", "1"]]
    monkeypatch.setattr(evidence, "sql", lambda *_, **__: rows)
    assert evidence._plugins(["AcmeBundle", "GoneBundle", "NewBundle"]) == {
        "AcmeBundle": {"version": "1.5", "loads": True},
        "GoneBundle": {"version": "2.0", "loads": False},
        "NewBundle": {"version": "", "loads": False},
    }


def test_css_and_js_of_the_login_page_are_requested_but_nothing_of_another_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    html = """<link rel="stylesheet" href="/media/css/app.css?v1a2b" data-source="mautic">
    <script data-source='mautic' src='/media/js/app.js'></script><script src="https://x.test/other.js"></script>
    <link rel="icon" href="/media/images/favicon.ico"><script src="//x.test/other.js"></script>"""
    asked: list[str] = []

    def get(_: str, path: str, __: float) -> tuple[int, bytes]:
        asked.append(path)
        if path.endswith("app.js"):
            raise ConnectionError
        return (200, html.encode()) if path == "/s/login" else (404, b"no")

    monkeypatch.setattr(page, "_get", get)
    found = page.assets({})["assets"]
    assert asked == ["/s/login", "/media/css/app.css?v1a2b", "/media/js/app.js"]
    assert {path: answer["status"] for path, answer in found.items()} == {
        "/s/login": 200,
        "/media/css/app.css": 404,
        "/media/js/app.js": 0,
    }
