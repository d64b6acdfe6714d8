"""The releases in the settings are read by a job, which also removes what killed builds left."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import pytest

from bot.model.plan import Refused
from schedules.releases import releases
from tests.bot.blueprint.test_archive import released, zipped
from tests.bot.test_releases import left_by_a_kill
from tests.support.bot import Bench, make_bench
from tests.support.judge import mrkdwn


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Return a bench with two releases in the settings, one of which does not match its checksum."""
    text = ""
    for version in ("6.0.10+double", "7.2.2+double"):
        file = zipped(tmp_path / f"{version}.zip", released(version=version))
        digest = hashlib.sha256(file.read_bytes()).hexdigest() if version[0] == "6" else "0" * 64
        text += f'[releases."{version.partition("+")[0]}"]\narchive = "{file}"\nsha256 = "{digest}"\n'
    config = tmp_path / "mautic-ops.toml"
    config.write_text(text)
    return make_bench(tmp_path / "state", MAUTIC_OPS_CONFIG=str(config))


def test_every_release_is_read_and_a_wrong_one_fails_the_job(bench: Bench) -> None:
    with pytest.raises(Refused, match=r'^`releases\."7\.2\.2"`: .* has the sha256'):
        releases(bench.context)
    shown = "\n".join(mrkdwn(bench.answer("releases").blocks))
    assert "*Mautic 6.0.10+double*" in shown
    assert '`releases."7.2.2"` was not read yet' in shown


def test_leftovers_of_a_killed_build_are_deleted_unless_it_may_still_be_running(bench: Bench) -> None:
    left = left_by_a_kill(bench.lxd)
    bench.clock.at = time.time()
    with pytest.raises(Refused):
        releases(bench.context)
    assert {one.name for one in bench.lxd.instances()} > {*left}
    bench.clock.at += 2 * 3600
    with pytest.raises(Refused):
        releases(bench.context)
    assert not {one.name for one in bench.lxd.instances()} & {*left}
    assert [one.name for one in bench.lxd.instances()] == ["blueprint--5-2-12-double"]
