"""Why `/mautic upgrade`, `rehearse` and `rollout` are refused: each refusal is a sentence whose advice works."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from bot.fleet import releases
from bot.guest import simulated_state as simulated_tenant
from bot.model.labels import State, as_labels
from bot.store import evidence
from schedules.offers import offers
from tests.mautic_double.build import build
from tests.support.bot import (
    LEAD,
    LEAD_2,
    OPERATOR,
    Bench,
    Desk,
    add_blueprint,
    add_releases,
    containers,
    live,
    make_bench,
    make_desk,
    notes,
    release,
)
from tests.support.simulated_lxd import SimulatedLxd

GIB = 1 << 30
OLD, NEW = "5.2.12+double", "6.0.10+double"
COMMANDS = ("upgrade client-x 6.0.10", "rehearse client-x 6.0.10", "rollout 6.0.10 client-x")


def desk_in(folder: Path, *versions: str, lxd: SimulatedLxd | None = None) -> Desk:
    """Return a desk with a tenant of 5.2.12, and these releases in the settings."""
    bench = make_bench(folder, lxd)
    add_releases(bench, *versions)
    assert bench.done("new client-x").state == "succeeded"
    return make_desk(bench)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return desk_in(tmp_path, "5.2.11", "6.0.10", "7.2.2", "8.0.0")


def told(desk: Desk, text: str) -> str:
    """Return what the person who types it reads."""
    before = len(desk.slack.to(OPERATOR.id))
    desk.command(text, OPERATOR)
    return "\n".join(desk.slack.to(OPERATOR.id)[before:])


def refused(desk: Desk, text: str) -> str:
    """Return the sentence that refuses it, after checking that nothing was requested."""
    before = desk.last().id
    said = told(desk, text)
    assert said.startswith(":warning:"), said
    assert desk.last().id == before
    assert containers(desk.bench) == {"client-x"}
    return said.removeprefix(":warning: ")


def follow(desk: Desk, said: str) -> None:
    """Do what a sentence advises, one command after another."""
    for advised in re.findall(r"`/mautic ([^`]+)`", said):
        desk.command(advised, LEAD)
        if desk.last().state == "awaiting_approval":
            desk.bench.approve(desk.last(), LEAD_2)
        desk.bench.finish()


def upgraded(desk: Desk, text: str = COMMANDS[0]) -> str:
    """Request it until it is done, as a person does who believes what is said; return the version at the end."""
    told(desk, text)
    desk.bench.finish()
    offers(desk.bench.context)
    for one in desk.bench.context.operations.select("state = 'awaiting_approval'"):
        desk.bench.approve(one)
    desk.bench.finish()
    return desk.bench.context.fleet.tenant("client-x").version


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("9.9.9", "There is no release “9.9.9” in the settings; known: "),
        ("latest", "There is no release “latest” in the settings; known: "),
        ("5.2.12", "`client-x` runs Mautic 5.2.12+double already."),
        ("5.2.11", "`client-x` runs Mautic 5.2.12+double, which is newer than 5.2.11. Mautic can't be downgraded; "),
        ("8.0.0", "Mautic 8.0.0 can't be reached from 5.2.12+double in one step. Run `/mautic "),
    ],
)
def test_an_impossible_version_is_refused(desk: Desk, version: str, words: str) -> None:
    # A rollout goes to a release of the settings, whatever version runs.
    for text in COMMANDS[: 2 if version == "5.2.12" else 3]:
        assert refused(desk, text.replace("6.0.10", version)).startswith(words), text


def test_a_version_that_needs_several_steps_is_refused_with_the_steps(desk: Desk) -> None:
    said = refused(desk, "upgrade client-x 7.2.2")
    assert said == (
        "Mautic 7.2.2 can't be reached from 5.2.12+double in one step. Run `/mautic upgrade client-x 6.0.10+double`, "
        "then `/mautic upgrade client-x 7.2.2+double`."
    )
    for step, version in zip(re.findall(r"`/mautic ([^`]+)`", said), (NEW, "7.2.2+double"), strict=True):
        assert upgraded(desk, step) == version


def test_if_no_release_is_newer_the_refusal_says_so(tmp_path: Path) -> None:
    desk = desk_in(tmp_path, "5.2.11")
    assert refused(desk, "upgrade client-x") == (
        "No release in the settings can be installed directly over Mautic 5.2.12+double of `client-x`. See why: "
        "`/mautic releases`"
    )
    assert "No release in the settings can be installed directly" in refused(desk, "rehearse client-x")


def test_a_release_that_was_not_read_yet_is_not_called_unknown(tmp_path: Path) -> None:
    """The bot has just been restarted with it, or could not get its archive."""
    config = tmp_path / "own.toml"
    config.write_text(f'[releases."6.0.10"]\narchive = "/nowhere.zip"\nsha256 = "{"0" * 64}"\n')
    bench = make_bench(tmp_path, MAUTIC_OPS_CONFIG=str(config))
    assert bench.done("new client-x").state == "succeeded"
    desk = make_desk(bench)
    for text in ("upgrade client-x", *COMMANDS):
        assert refused(desk, text) == (
            '`releases."6.0.10"` in the settings was not read yet. Try again in a minute; `/mautic schedule list` '
            "shows what the job `releases` met."
        )
    assert "There is no release “9.9.9”" in refused(desk, "upgrade client-x 9.9.9")


@pytest.mark.parametrize(("doing", "words"), [("stop", "is stopped"), ("suspend", "is suspended")])
def test_a_tenant_that_does_not_run_is_refused_with_the_command_that_starts_it(
    desk: Desk, doing: str, words: str
) -> None:
    assert desk.bench.done(f"{doing} client-x", OPERATOR).state == "succeeded"
    for text in COMMANDS:
        said = refused(desk, text)
        assert words in said
    follow(desk, said)
    assert live(desk.bench)
    assert upgraded(desk) == NEW


def test_an_interrupted_tenant_is_refused_with_the_command_that_brings_it_back(desk: Desk) -> None:
    desk.bench.lxd.update("client-x", as_labels(state=State.MOVING))
    desk.bench.lxd.stop("client-x", force=True)
    for text in COMMANDS[:2]:
        said = refused(desk, text)
        assert "was interrupted" in said
    assert "`client-x` is moving" in refused(desk, COMMANDS[2])
    follow(desk, said)
    assert upgraded(desk) == NEW


def test_a_frozen_tenant_is_refused_and_not_rehearsed(desk: Desk) -> None:
    desk.command("freeze client-x because of the sale", LEAD)
    for text in COMMANDS:
        said = refused(desk, text)
        assert "frozen by" in said
    follow(desk, said)
    assert upgraded(desk) == NEW


def test_a_locked_tenant_is_refused_with_the_request_that_locks_it(desk: Desk) -> None:
    held = desk.bench.ask("stop client-x", OPERATOR)
    for text in COMMANDS[:2]:
        said = refused(desk, text)
        assert f"locked by request #{held.id}" in said
    follow(desk, said)
    assert upgraded(desk) == NEW


def test_maintenance_that_has_not_begun_blocks_nobody(desk: Desk) -> None:
    plan = desk.bench.answer("snapshot client-x", OPERATOR)
    desk.bench.context.operations.request(
        "snapshot", plan, requester="system", channel="", request_key="maintenance", hours=1, approved=True
    )
    assert "Rehearsing" in told(desk, COMMANDS[0])


def test_a_host_without_memory_for_a_second_container_is_refused(tmp_path: Path) -> None:
    lxd = SimulatedLxd(memory=4 * GIB)
    add_blueprint(lxd)
    desk = desk_in(tmp_path, "6.0.10", lxd=lxd)
    desk.bench.context.fleet.fresh = 0
    lxd.world.memory = GIB // 2
    for text in COMMANDS:
        said = refused(desk, text)
        assert "cannot start on `local`" in said
        assert "Stop, resize or delete another tenant on `local`, or add memory. `/mautic hosts` shows all." in said
    lxd.world.memory = 4 * GIB
    assert upgraded(desk) == NEW


def test_a_full_pool_is_refused(desk: Desk) -> None:
    had = desk.bench.lxd.world.pool_bytes
    desk.bench.lxd.world.pool_bytes = desk.bench.lxd.pool().used + GIB // 2
    for text in COMMANDS[:2]:
        assert "The storage pool of `local` is full: 512 MiB of " in refused(desk, text)
    desk.bench.lxd.world.pool_bytes = had
    assert upgraded(desk) == NEW


def test_a_missing_archive_is_refused_and_used_when_it_is_back(tmp_path: Path) -> None:
    desk, path = own_archive(tmp_path)
    content = path.read_bytes()
    path.unlink()
    for text in COMMANDS:
        assert f"The archive of Mautic {NEW} is not at `{path}`. Put it back there" in refused(desk, text)
    path.write_bytes(content)
    assert upgraded(desk) == NEW


def own_archive(folder: Path) -> tuple[Desk, Path]:
    """Return a desk with a release, and the path of its archive, which no other test uses."""
    path = folder / "own.zip"
    path.write_bytes(release("6.0.10")[0].read_bytes())
    config = folder / "own.toml"
    config.write_text(f'[releases."6.0.10"]\narchive = "{path}"\nsha256 = "{release("6.0.10")[1]}"\n')
    bench = make_bench(folder, MAUTIC_OPS_CONFIG=str(config))
    assert releases.keep(bench.context.settings) == []
    assert bench.done("new client-x").state == "succeeded"
    return make_desk(bench), path


@pytest.mark.parametrize("lost", ["another file", "gone"])
def test_an_archive_that_is_lost_during_an_operation_fails_it_with_the_reason(tmp_path: Path, lost: str) -> None:
    desk, path = own_archive(tmp_path)

    def lose() -> None:
        build(path, "7.2.2") if lost == "another file" else path.unlink()

    words = "it is another file, or a damaged one." if lost == "another file" else f"There is no archive at {path}."
    content = path.read_bytes()
    told(desk, "upgrade client-x")
    at_the_step(desk.bench, "clone", lose)
    desk.bench.finish()
    is_as_it_was(desk.bench, "rehearse", words)
    path.write_bytes(content)
    desk.bench.runner.fault = lambda moment: None
    told(desk, "upgrade client-x")
    desk.bench.finish()
    offers(desk.bench.context)
    asked = desk.bench.approve(desk.last())
    assert asked.command == "upgrade"
    at_the_step(desk.bench, "stage", lose)
    desk.bench.finish()
    is_as_it_was(desk.bench, "upgrade", words)


def at_the_step(bench: Bench, key: str, work: Callable[[], object]) -> None:
    """Call `work` when the step `key` begins."""

    def fault(moment: str) -> None:
        running = next(iter(bench.context.operations.select("state = 'running'")), None)
        if running and moment == f"started {[step.key for step in running.steps].index(key)}":
            work()

    bench.runner.fault = fault


def is_as_it_was(bench: Bench, command: str, words: str) -> None:
    """Check that the operation failed with these words, and that the tenant is as it was."""
    failed = bench.context.operations.select("command = ?", command, order="id DESC", limit=1)[0]
    assert (failed.state, words in failed.outcome) == ("failed", True), failed.outcome
    assert "\n" not in failed.outcome
    assert containers(bench) == {"client-x"}
    assert bench.context.fleet.tenant("client-x").version == OLD
    assert live(bench)


BREAKS = {
    "stage": "stage failed: it broke",
    "swap": "swap failed: it broke",
    "warm": "warm failed: it broke",
    "migrate": "The migrations failed: it broke",
    "reload": "reload failed: it broke",
    "page": "page failed: it broke",
    "assets": "The login page does not have all that it needs: /media/css/app.css, /media/js/app.js.",
}


@pytest.mark.parametrize("step", sorted(set(BREAKS) - {"page"}))
def test_a_step_that_fails_in_the_rehearsal_is_reported_and_offers_nothing(desk: Desk, step: str) -> None:
    """All but `page`: the copy has to show its page before the upgrade, too."""
    simulated_tenant.change(desk.bench.lxd, "client-x", breaks={step: "it broke"})
    told(desk, COMMANDS[0])
    desk.bench.finish()
    offers(desk.bench.context)
    is_as_it_was(desk.bench, "rehearse", BREAKS[step])
    found = evidence.newest(desk.bench.context.database, "client-x", NEW)
    assert found is not None
    assert BREAKS[step] in found.failed
    assert desk.bench.context.operations.select("command = 'upgrade'") == []


@pytest.mark.parametrize("step", sorted(set(BREAKS) - {"warm"}))
def test_a_step_that_fails_in_the_upgrade_leaves_the_tenant_as_it_was(desk: Desk, step: str) -> None:
    """All but `warm`, which is skipped because the rehearsal has made the cache."""
    told(desk, COMMANDS[0])
    desk.bench.finish()
    offers(desk.bench.context)
    desk.bench.approve(desk.last())
    simulated_tenant.change(desk.bench.lxd, "client-x", breaks={step: "it broke"})
    desk.bench.finish()
    is_as_it_was(desk.bench, "upgrade", BREAKS[step])
    (said,) = [note for note in notes(desk.bench, desk.last()) if " failed" in note]
    assert "rolled back" in said


def test_a_rehearsal_that_no_longer_holds_is_not_followed_by_another(desk: Desk) -> None:
    """After a rehearsal the bot requests the upgrade by itself, or nothing: no endless rehearsals."""
    told(desk, COMMANDS[0])
    desk.bench.finish()
    simulated_tenant.change(desk.bench.lxd, "client-x", plugins={"OwnBundle": True})
    offers(desk.bench.context)
    (rehearsal,) = desk.bench.context.operations.select("command = 'rehearse'")
    said = notes(desk.bench, rehearsal)[-1]
    assert "`client-x` has changed since the rehearsal (plugins)." in said
    assert upgraded(desk, re.findall(r"`/mautic ([^`]+)`", said)[-1]) == NEW


def test_a_rollout_leaves_out_tenants_that_cannot_be_rehearsed(desk: Desk) -> None:
    """A tenant that can never be rehearsed is not tried again and again."""
    bench = desk.bench
    for name in ("client-y", "client-z"):
        assert bench.done(f"new {name}").state == "succeeded"
    bench.done("stop client-z", OPERATOR)
    simulated_tenant.change(bench.lxd, "client-y", breaks={"stage": "it broke"})
    said = told(desk, "rollout 6.0.10 --all")
    assert "copies of 2 tenants" in said
    assert "rehearses this already" in told(desk, "rollout 6.0.10 --all")
    bench.finish()
    offers(bench.context)
    (rollout,) = bench.context.operations.select("command = 'rollout'")
    assert rollout.arguments["tenant"] == "client-x,"
    left = rollout.plan["remarks"]["Left out"]
    assert "client-y: the rehearsal of client-y did not pass: Inside client-y--" in left
    assert "client-z: client-z is stopped" in left
    assert len(bench.context.operations.select("command = 'rehearse' AND parent = 0")) == 1


def test_a_rollout_names_an_unknown_release_once(desk: Desk) -> None:
    assert refused(desk, "rollout 9.9.9 --all").startswith("There is no release “9.9.9” in the settings; known: ")


def test_rehearsals_of_many_need_memory_only_for_the_copies_that_run_at_once(tmp_path: Path) -> None:
    """Six of 3 GiB each are expected to take 184 MiB: memory is free for three copies, and two are made at once."""
    lxd = SimulatedLxd(memory=4 * GIB)
    add_blueprint(lxd)
    desk = desk_in(tmp_path, "6.0.10", lxd=lxd)
    bench = desk.bench
    bench.context.fleet.fresh = 0
    for name in "abcde":
        assert bench.done(f"new client-{name}").state == "succeeded"
    free = bench.lxd.resources()
    lxd.world.memory -= free.available - (free.total // 10) - 600 * (1 << 20)
    assert "copies of 6 tenants" in told(desk, "rollout 6.0.10 --all")
    bench.finish()
    offers(bench.context)
    (rollout,) = bench.context.operations.select("command = 'rollout'")
    assert "Left out" not in rollout.plan["remarks"]
    assert lxd.killed == 0
