"""Which archives are accepted as a Mautic release, and why others are refused."""

import hashlib
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from bot.guest.blueprint.archive import Archive, ArchiveError, open_archive

RELEASE = {
    "version": "5.2.12",
    "stability": "stable",
    "minimum_php_version": "8.1.0",
    "maximum_php_version": "8.3.99",
    "show_php_version_warning_if_under": "8.1.0",
    "minimum_mautic_version": "5.0.0",
    "announcement_url": "",
    "minimum_mysql_version": "5.7.14",
    "minimum_mariadb_version": "10.2.7",
}
FILES = {
    "index.php": "<?php\n",
    "bin/console": "#!/usr/bin/env php\n",
    "composer.json": "{}",
    "app/release_metadata.json": json.dumps(RELEASE),
}


def zipped(path: Path, files: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def tarred(path: Path, files: dict[str, str], prefix: str = "") -> Path:
    with tarfile.open(path, f"w:{path.suffix[1:]}") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(prefix + name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


def released(**changes: object) -> dict[str, str]:
    return {**FILES, "app/release_metadata.json": json.dumps({**RELEASE, **changes})}


def opened(path: Path) -> Archive:
    return open_archive(str(path), hashlib.sha256(path.read_bytes()).hexdigest(), path.parent / "cache")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server with one release: its URL, and the file behind it."""
    path = zipped(tmp_path / "5.2.12.zip", FILES)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/releases/5.2.12.zip"
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(path.read_bytes() if found else b"")

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/releases/5.2.12.zip", path
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_release_zip_is_recognised_by_its_metadata(tmp_path: Path) -> None:
    archive = opened(zipped(tmp_path / "mautic.zip", FILES))
    assert (archive.version, archive.is_zip, archive.double) == ("5.2.12", True, False)


@pytest.mark.parametrize(("name", "prefix"), [("mautic.tar.gz", ""), ("mautic.tar.xz", "./")])
def test_a_tar_of_the_same_layout_is_accepted(tmp_path: Path, name: str, prefix: str) -> None:
    archive = opened(tarred(tmp_path / name, FILES, prefix))
    assert (archive.version, archive.is_zip) == ("5.2.12", False)


def test_the_double_is_recognised_as_a_double(tmp_path: Path) -> None:
    assert opened(zipped(tmp_path / "mautic.zip", released(version="5.2.12+double"))).double


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: zipped(path, {"readme.txt": ""}), "is not a Mautic release: it has no index.php at its top"),
        (
            lambda path: zipped(path, {f"mautic-5.2.12/{name}": text for name, text in FILES.items()}),
            "it has no index.php at its top",
        ),
        (lambda path: path.write_text("nothing of the kind"), "is neither a zip nor a tar archive"),
        (lambda path: zipped(path, {**FILES, "app/release_metadata.json": "{"}), "that is not JSON"),
        (lambda path: zipped(path, {**FILES, "app/release_metadata.json": "[]"}), "that is not an object"),
        (lambda path: zipped(path, {**FILES, "app/release_metadata.json": "{}"}), "does not say what it runs on"),
        (lambda path: zipped(path, released(version="; rm -rf /")), "which is no version"),
        (lambda path: zipped(path, released(version="5.2")), "which is no version"),
        (lambda path: zipped(path, released(version="1!5.2.12")), "which is no version"),
        (lambda path: zipped(path, released(minimum_mautic_version="some")), "names “some” as the version to upgrade"),
        (
            lambda path: zipped(path, released(version="5.0.4", maximum_php_version="8.1.99")),
            r"Mautic 5\.0\.4 runs on PHP 8\.1\.0 to 8\.1\.99; blueprints have 8\.2 or 8\.4",
        ),
        (lambda path: zipped(path, released(minimum_php_version="8.4.0")), "runs on PHP 8.4.0 to"),
        (
            lambda path: zipped(path, released(minimum_mariadb_version="11.4.0")),
            r"needs MariaDB 11\.4\.0 or newer; the blueprint has 10\.11",
        ),
    ],
)
def test_an_unusable_archive_is_refused_with_the_reason(
    tmp_path: Path, make: Callable[[Path], Any], reason: str
) -> None:
    path = tmp_path / "archive"
    make(path)
    with pytest.raises(ArchiveError, match=reason):
        opened(path)


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    path = tarred(tmp_path / "mautic.tar.gz", FILES)
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(ArchiveError, match=r"is damaged|neither a zip nor a tar"):
        opened(path)


def test_an_archive_is_accepted_only_with_its_sha256(tmp_path: Path) -> None:
    path = zipped(tmp_path / "mautic.zip", FILES)
    with pytest.raises(ArchiveError, match="only with its sha256"):
        open_archive(str(path), "", tmp_path)
    with pytest.raises(ArchiveError, match=f"not {'0' * 64}"):
        open_archive(str(path), "0" * 64, tmp_path)
    with pytest.raises(ArchiveError, match="no archive at"):
        open_archive(str(tmp_path / "absent.zip"), "0" * 64, tmp_path)


def test_a_url_is_downloaded_once_and_cached(served: tuple[str, Path], tmp_path: Path) -> None:
    url, behind = served
    sha256 = hashlib.sha256(behind.read_bytes()).hexdigest()
    first = open_archive(url, sha256, tmp_path / "cache")
    behind.unlink()
    assert open_archive(url, sha256, tmp_path / "cache") == first


def test_a_download_is_cached_only_if_its_sha256_matches(served: tuple[str, Path], tmp_path: Path) -> None:
    url, _ = served
    with pytest.raises(ArchiveError, match="it is another file, or was changed"):
        open_archive(url, "0" * 64, tmp_path / "cache")
    with pytest.raises(ArchiveError, match=r"cannot be fetched: Not Found"):
        open_archive(f"{url}.asc", "0" * 64, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
