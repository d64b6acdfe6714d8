"""Twenty requests at once, and deliveries that come twice: every tenant is created, and only once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from tests.support.workspace import eventually
from tests.support.world import CHANNEL, TINY_VERSION, World


def test_twenty_tenants_that_are_requested_and_approved_at_once_all_go_live_once(world: World) -> None:
    names = [f"many-{number}" for number in range(20)]
    try:
        with ThreadPoolExecutor(20) as people:
            ask = f"/mautic new {{}} --version {TINY_VERSION}"
            list(people.map(lambda name: world.workspace.command("account-manager", CHANNEL, ask.format(name)), names))

            def cards() -> dict[str, str]:
                found = {
                    name: message["ts"]
                    for message in world.workspace.messages(CHANNEL)
                    for name in names
                    if f"tenant {name}*" in message["text"]
                }
                return found if len(found) == 20 else {}

            by_name = eventually(cards, 60)
            # Both leads press at once, on every card.
            presses = [(lead, ts) for ts in by_name.values() for lead in ("ops-lead", "ops-lead-2")]
            list(people.map(lambda press: world.workspace.click(press[0], CHANNEL, press[1], "approve"), presses))

        def live_tenant(name: str) -> bool:
            said = any("is live" in text for text in world.thread(by_name[name]))
            # The bot calls a tenant live only once it is.
            assert not said or world.edge.probe(f"{name}.e2e.localhost").login
            return said

        waiting = set(names)

        def all_live() -> bool:
            waiting.difference_update([name for name in waiting if live_tenant(name)])
            return not waiting

        eventually(all_live, 180)
        for name in names:
            assert world.instances_of(name) == [name]
            assert sum("is live" in text for text in world.thread(by_name[name])) == 1
    finally:
        world.remove(*names)


def test_deliveries_that_come_twice_act_once(world: World) -> None:
    try:
        world.workspace.faults(redeliver=1)
        card = world.ask(f"new twice-x --version {TINY_VERSION}")
        world.workspace.faults(redeliver=1)
        world.workspace.click("ops-lead", CHANNEL, card, "approve")
        world.wait_for(card, "is live")
        assert len(world.bot.rows("SELECT 1 FROM operations")) == 1
        assert len(world.bot.rows("SELECT 1 FROM decisions")) == 1
        assert [m for m in world.workspace.messages(CHANNEL, user="ops-lead") if m.get("is_ephemeral")] == []
    finally:
        world.remove("twice-x")
