"""A cluster with a dead member."""

from contextlib import suppress

import pytest

from bot.engine.steps import patiently
from bot.lxd.protocol import LxdUnavailable, NotFound
from bot.model.labels import as_labels, label_of
from tests.lab.conftest import eventually
from tests.support.lab import Lab
from tests.support.real_lxd import TINY

NAME = "on-a-dead-member"


def test_instances_of_a_dead_member_are_remembered_and_a_new_connection_is_refused(lab: Lab) -> None:
    there, node = lab.host("node3"), lab.nodes["node3"]
    there.create(NAME, TINY, config=as_labels(role="tenant", tenant=NAME), devices={})
    try:
        knows = lab.cluster
        knows.instances()
        node.kill()

        def seen() -> str:
            found = next(one for one in knows.instances() if one.name == NAME)
            (whole,) = (one for one in knows.full_instances() if one.instance.name == NAME)
            assert (found.location, label_of(found.config, "role")) == ("node3", "tenant")
            assert whole.instance.config == found.config
            return found.status

        eventually(seen, lambda status: status == "Error")
        with pytest.raises(LxdUnavailable, match=r"could not list the instances now: node3 does not answer\.$"):
            # A new connection, as after a restart of the bot.
            lab.cluster.instances()
    finally:
        node.start()
        with suppress(NotFound):
            patiently(lambda: there.delete(NAME))
