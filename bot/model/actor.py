"""Who acts: a person, with the roles that the configuration gives, or the bot itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Actor:
    """A person who may act here: a full member of our own team, with the roles that the configuration gives them."""

    id: str
    roles: frozenset[str]
