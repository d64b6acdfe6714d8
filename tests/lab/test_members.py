"""A cluster one of whose members has died."""

from contextlib import suppress

from bot.lxd import Instance, LxdUnavailable, NotFound
from bot.steps import patiently
from bot.tenants import stamp, stamps
from tests.lab.conftest import eventually
from tests.support.lab import Lab
from tests.support.real_lxd import TINY

NAME = "on-a-dead-member"


def test_what_a_dead_member_has_is_known_or_refused_and_never_taken_for_something_else(lab: Lab) -> None:
    there, node = lab.host("node3"), lab.nodes["node3"]
    there.create(NAME, TINY, config=stamps(role="tenant", tenant=NAME), devices={})
    try:
        node.kill()

        def seen() -> Instance | None:
            try:
                found = next(one for one in lab.cluster.instances() if one.name == NAME)
                (whole,) = (one for one in lab.cluster.survey() if one.instance.name == NAME)
            except LxdUnavailable:
                # For as long as it is not known to be offline.
                return None
            assert (found.location, stamp(found.config, "role")) == ("node3", "tenant")
            assert whole.instance == found
            return found

        eventually(seen, lambda found: found is not None and found.status == "Error")
    finally:
        node.start()
        with suppress(NotFound):
            patiently(lambda: there.delete(NAME))
