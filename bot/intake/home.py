"""The Home tab: what a person has to decide, open incidents, the fleet, and requests."""

from __future__ import annotations

import math
from collections import Counter

from slack_sdk import WebClient

from bot.engine.context import Context
from bot.engine.errors import explain
from bot.model.actor import Actor
from bot.model.labels import Role
from bot.model.text import sentence
from bot.reports.condition import conditions, counted
from bot.reports.digest import carried, failing_jobs, storage
from bot.slack.announcer import failure_buttons
from bot.slack.incidents import worst_first
from bot.slack.messages import Block, actions, decision_buttons, section
from bot.slack.people import People
from bot.store.batches import Standing, standing
from bot.store.freezes import Freezes
from bot.store.operation import Operation

DECIDED, LISTED = 8, 10
"""Requests with buttons, and lines of each list: a view holds at most 100 blocks."""


def publish(client: WebClient, context: Context, people: People, user: str, team: str) -> None:
    """Render and publish the Home tab of one person; where they may not use the bot, or on an error, it says why."""
    try:
        blocks = home(context, people.actor(user, team, ""))
    except Exception as error:
        why, _ = explain(error, f"showing {user} their Home tab")
        blocks = context.renderer.say(f":no_entry: {sentence(why)}").blocks
    client.views_publish(user_id=user, view={"type": "home", "blocks": blocks})


def home(context: Context, actor: Actor) -> list[Block]:
    """Return the blocks of a person's Home tab; a server that does not answer is reported, not waited for."""
    seen = context.fleet.inventory(Role.TENANT, Role.ARCHIVED)
    waiting = context.operations.select("state = 'awaiting_approval'", limit=100)
    theirs = [operation for operation in waiting if _may_decide(context, actor, operation)]
    mine = context.operations.select("requester = ? AND parent = 0", actor.id, order="id DESC", limit=LISTED)
    halted = context.operations.select("state = 'needs_attention'", limit=100)
    halted.sort(key=lambda one: one.aftermath.get("online") is not False)
    responsible = [one for one in halted if _may_put_right(context, actor, one)]
    pools = storage(context.database, context.now())
    blocks = context.renderer.message(
        "home.j2",
        theirs=theirs,
        decided=DECIDED,
        others=[operation for operation in waiting if operation not in theirs and operation not in mine],
        mine=mine,
        incidents=worst_first(context.incidents.open()),
        planned=sorted(
            context.operations.select("state = 'queued' AND held_by <> '' AND parent = 0 AND NOT begun", limit=100),
            key=lambda one: (one.at or math.inf, one.id),
        ),
        batches=_batches(context),
        frozen=Freezes(context.operations).all(),
        may_end=context.settings.policy("unfreeze").ask,
        halted=halted,
        responsible=responsible,
        states=counted(conditions(context, seen.tenants).values()),
        hosts=Counter(tenant.host for tenant in seen.tenants if tenant.role == Role.TENANT),
        silent=seen.silent,
        failing_jobs=failing_jobs(context, seen.silent.values()),
        storage=pools,
        carries=carried(context, [tenant for tenant in seen.tenants if tenant.role == Role.TENANT], pools),
        listed=LISTED,
    ).blocks
    first = [block for operation in responsible[:DECIDED] for block in _halted(context, operation)]
    asked = [block for operation in theirs[:DECIDED] for block in _request(context, operation)]
    return [*blocks[:1], *first, *asked, *blocks[1:]]


def _batches(context: Context) -> list[tuple[Operation, Standing]]:
    """Return the batches in progress, each with its progress."""
    running = context.operations.select("state = 'running' AND id IN (SELECT operation FROM batches)", limit=LISTED)
    stand = ((one, standing(context.operations, one.id)) for one in running)
    return [(one, stands) for one, stands in stand if stands]


def _may_put_right(context: Context, actor: Actor, operation: Operation) -> bool:
    return actor.id == operation.requester or bool(actor.roles & set(context.settings.responders(operation.command)))


def _halted(context: Context, operation: Operation) -> list[Block]:
    return [
        section(context.renderer.words("home-halted.j2", operation=operation, left=operation.aftermath)),
        actions(f"operation-{operation.id}", *failure_buttons(operation)),
    ]


def _may_decide(context: Context, actor: Actor, operation: Operation) -> bool:
    policy = context.settings.policy(operation.command)
    said = any(decision.actor == actor.id for decision in operation.decisions)
    return actor.id != operation.requester and bool(actor.roles & set(policy.approve)) and not said


def _request(context: Context, operation: Operation) -> list[Block]:
    return [
        section(context.renderer.words("home-request.j2", operation=operation)),
        actions(
            f"operation-{operation.id}",
            *decision_buttons(operation.mark, operation.options, operation.chosen),
        ),
    ]
