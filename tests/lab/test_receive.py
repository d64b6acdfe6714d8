"""The contract of `receive`, between the lab's servers and the members of its cluster."""

from collections.abc import Iterator

import pytest

from tests.contracts.test_receive_contract import *  # noqa: F403
from tests.contracts.test_receive_contract import Pair
from tests.support.lab import Lab


@pytest.fixture(
    params=[("solo1", "solo2"), ("node2", "node3"), ("node2", "solo1"), ("solo1", "node3")], ids=" to ".join
)
def pair(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Two hosts of the lab."""
    source, target = request.param
    made = Pair(lab.host(source), lab.host(target), [])
    yield made
    made.remove()
