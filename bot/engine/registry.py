"""Commands: one file each in `commands/`. The signature is the parser, the docstring the help, the plan the preview."""

from __future__ import annotations

import importlib
import inspect
import itertools
import pkgutil
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from types import ModuleType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import msgspec
from cyclopts import App, CycloptsError, Parameter

from bot.engine import before_inputs, parse_errors
from bot.engine.context import Answer, Context, Run
from bot.model.actor import Actor
from bot.model.moments import joined as moments_joined
from bot.model.plan import Plan, Refused, Steps, UnknownWords
from bot.model.tenants import InvalidName, domain_name, tag_name, tenant_name
from bot.model.words import split
from bot.slack.messages import Message, Modal
from bot.store.operation import Operation

StepsFunction = TypeVar("StepsFunction", bound=Callable[[Run, Any], Steps])
COURTESY = frozenset({"please", "pls", "hello", "hi", "hey", "thanks"})
"""Words of politeness that are no mistyped commands: “please” is close to `releases`."""


@dataclass(frozen=True)
class Command:
    """One command as declared."""

    name: str
    kind: Literal["operation", "query"]
    function: Callable[..., Any]
    usage: str
    summary: str
    help: str
    fresh: bool
    """Whether it decides something, or shows what only some may see, so that Slack is asked again who the person is."""
    decides: bool
    """Whether it is a query that decides or orders something, so that its delivery is handled like a change's."""
    window: Literal["always", "bare", "never"]
    """When it opens a window, for which Slack allows three seconds; `bare`: if no words follow its name."""
    options: frozenset[str]
    """The names of its options, without hyphens before them."""
    many: bool = False
    """Whether it takes several tenants at once."""
    not_half_way: bool = False
    """Whether it is refused on a tenant that a restore or move left halfway."""
    shows: bool = False
    """Whether it is an operation that may show something instead, and change nothing."""
    steps: Callable[[Run, Any], Steps] | None = None
    """Makes the steps of an operation from its inputs; None if each plan carries its steps."""
    inputs: Any = None
    """The dataclass of what `steps` needs."""


def operation(function: Callable[..., Plan | Answer]) -> Callable[..., Plan | Answer]:
    """Declare the request of a command that changes something; the request returns a Plan, or an answer instead.

    The request looks at the world, may refuse, says what people are shown, and resolves the inputs of the steps. It is
    called at the request, at the approval and when the operation begins, and never again after that.
    """
    function.declared = "operation"  # type: ignore[attr-defined]
    return function


def not_half_way(function: Callable[..., Plan | Answer]) -> Callable[..., Plan | Answer]:
    """Declare that an operation is refused on a tenant that a restore or move left halfway.

    Another container may then serve the tenant's site.
    """
    function.not_half_way = True  # type: ignore[attr-defined]
    return function


def steps_of(request: Callable[..., Plan | Answer]) -> Callable[[StepsFunction], StepsFunction]:
    """Declare the function that makes the steps of a request, from the stored inputs and nothing else.

    The function asks no server: each step looks at the world when it runs.
    """

    def made_by(function: StepsFunction) -> StepsFunction:
        request.steps = function  # type: ignore[attr-defined]
        return function

    return made_by


def query(function: Callable[..., Answer]) -> Callable[..., Answer]:
    """Declare a command that changes nothing in the fleet, and returns its answer."""
    function.declared = "query"  # type: ignore[attr-defined]
    return function


def fresh(function: Callable[..., Answer]) -> Callable[..., Answer]:
    """Declare that a query decides something, or shows what only some may see."""
    function.fresh = True  # type: ignore[attr-defined]
    return function


def decides(function: Callable[..., Answer]) -> Callable[..., Answer]:
    """Declare that a query decides or orders something; this includes `fresh`."""
    function.decides = True  # type: ignore[attr-defined]
    return fresh(function)


def _number(text: str) -> int:
    """Parse the number of an operation; refuse `3.5` rather than round it to another operation's number."""
    if not re.fullmatch(r"#?[0-9]{1,15}", text):
        raise InvalidName(
            f"“{text[:40]}” isn't a request number. You'll find the number on the card, for example `80`."
        )
    return int(text.removeprefix("#"))


def _tenants(text: str) -> str:
    """Parse names separated by commas; a single name with a comma after it is a list of one."""
    names = [tenant_name(name.rstrip(".")) for name in text.split(",") if name.strip()]
    if not names:
        raise InvalidName("A tenant needs a name, such as `client-x`.")
    return ",".join(names) + ("," if len(names) == 1 and text.strip().endswith(",") else "")


def _period(text: str) -> float:
    """Parse a period such as `12h`, `7d` or `2w`; return seconds."""
    found = re.fullmatch(r"([0-9]{1,4})\s*([hdw])", text.strip().lower())
    period = int(found[1]) * {"h": 3600, "d": 86_400, "w": 604_800}[found[2]] if found else 0
    if not 0 < period <= 60 * 86_400:
        raise InvalidName(f"“{text[:40]}” isn't a period. Use one such as `12h`, `7d` or `2w` (up to 60 days).")
    return float(period)


def _named(convert: Callable[[str], Any]) -> Callable[[Any, Any], Any]:
    return lambda _type, tokens: convert(tokens[0].value)


TenantArgument = Annotated[str, Parameter(converter=_named(lambda text: tenant_name(text.rstrip(".,"))))]
OperationNumber = Annotated[int, Parameter(converter=_named(_number))]
TenantsArgument = Annotated[str, Parameter(converter=_named(_tenants))]
"""The name of a tenant, or several separated by commas."""
FreeWords = Annotated[str, Parameter(allow_leading_hyphen=True)]
"""Words for another program, including options."""
PeriodOption = Annotated[float, Parameter(converter=_named(_period))]
Confirmation = Annotated[str, Parameter(converter=_named(lambda text: text if text.isdecimal() else tenant_name(text)))]
"""What an approval may have beside its request's number: a tenant's name, or the number of tenants in a batch."""
TagWord = Annotated[str, Parameter(converter=_named(tag_name))]
DomainOption = Annotated[str, Parameter(converter=_named(domain_name))]
PlanOption = Annotated[str, Parameter(name="--plan")]
"""The name of a plan in the settings."""


def _choices(annotation: Any, plans: Sequence[str]) -> str:
    """Return what may be typed for a parameter, such as `small|medium|large`; "" if that is no fixed list."""
    offered = plans if annotation == PlanOption else get_args(annotation) if get_origin(annotation) is Literal else ()
    return "|".join(one for one in offered if one)


def declare(name: str, function: Callable[..., Any], plans: Sequence[str] = ()) -> Command:
    """Return the Command of a declared function; `plans`: the names of the plans, for the usage."""
    parts, options, many = [], [], False
    for parameter in list(inspect.signature(function, eval_str=True).parameters.values())[1:]:
        many = many or parameter.annotation == TenantsArgument
        word = parameter.name.replace("_", "-")
        if parameter.kind is parameter.KEYWORD_ONLY:
            options.append(word)
            value = "" if parameter.annotation is bool else " " + (_choices(parameter.annotation, plans) or "…")
            shown = f"--{word}{value}"
            parts.append(shown if parameter.default is parameter.empty else f"[{shown}]")
        elif parameter.kind is parameter.VAR_POSITIONAL:
            parts.append(f"[{word}…]")
        else:
            shown = _choices(parameter.annotation, plans) or word
            parts.append(f"<{shown}>" if parameter.default is parameter.empty else f"[{shown}]")
    text = inspect.cleandoc(function.__doc__ or "")
    kind: Literal["operation", "query"] = function.declared  # type: ignore[attr-defined]
    usage, summary = " ".join([name, *parts]), text.split("\n")[0].rstrip(".")
    answers = inspect.signature(function, eval_str=True).return_annotation
    steps = getattr(function, "steps", None)
    inputs = list(inspect.signature(steps, eval_str=True).parameters.values())[1].annotation if steps else None
    return Command(
        name,
        kind,
        function,
        usage,
        summary,
        "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n")),
        fresh=getattr(function, "fresh", False),
        decides=getattr(function, "decides", False),
        window="always" if answers is Modal else "bare" if Modal in get_args(answers) else "never",
        options=frozenset(options),
        many=many,
        not_half_way=getattr(function, "not_half_way", False),
        shows=kind == "operation" and Message in get_args(answers),
        steps=steps,
        inputs=inputs,
    )


class Registry:
    """All commands of a package, found in its modules without a list. `plans`: the plans' names, for the usage."""

    def __init__(self, package: ModuleType, plans: Sequence[str] = ()) -> None:
        self.commands: dict[str, Command] = {}
        for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda found: found.name):
            loaded = importlib.import_module(f"{package.__name__}.{module.name}")
            declared = [
                value
                for value in vars(loaded).values()
                if getattr(value, "declared", None) and value.__module__ == loaded.__name__
            ]
            if len(declared) != 1:
                raise RuntimeError(f"{loaded.__name__} has to declare one command; it declares {len(declared)}.")
            name = module.name.rstrip("_").replace("_", "-")
            self.commands[name] = declare(name, declared[0], plans)
        self._app = App(name="/mautic", help_flags=[], version_flags=[], result_action="return_value")
        for command in self.commands.values():
            self._app.command(_without_context(command.function), name=command.name)

    def command(self, name: str, more: Sequence[str] = ()) -> Command:
        """Return a command by name, or refuse with the nearest name; `more`: the words after it."""
        if name in self.commands:
            return self.commands[name]
        # A lower cutoff would take ordinary words for mistyped commands.
        near = [] if name in COURTESY else get_close_matches(name, self.commands, n=1, cutoff=0.65)
        hint = f"Did you mean `/mautic {near[0]}`?" if near else "`/mautic help` lists all commands."
        if not near and more:
            hint = "`/mautic new` creates a tenant, `/mautic list` shows all, and `/mautic help` lists all commands."
        raise UnknownWords(f"I don't know “{name[:40]}”. {hint}")

    def parse(self, text: str) -> tuple[Command, dict[str, Any]]:
        """Turn what was typed after `/mautic` into a command and its arguments, or refuse with the usage."""
        return self.bind(split(text) or ["help"])

    def bind(self, words: Sequence[str]) -> tuple[Command, dict[str, Any]]:
        """Turn a command's name and the words after it into the command and its arguments, or refuse."""
        command = self.command(words[0].lower(), words[1:])
        try:
            known = [_option(word, command.options) for word in words[1:]]
            known = moments_joined(known) if "at" in command.options else known
            _, bound, _ = self._app.parse_args([command.name, *known], exit_on_error=False, print_error=False)
        except (CycloptsError, InvalidName, ValueError) as error:
            if joined := _joined(command, words[1:]):
                raise UnknownWords(joined) from error
            if isinstance(error.__cause__, InvalidName):
                raise UnknownWords(str(error.__cause__)) from error
            raise UnknownWords(f"{parse_errors.reason(error)} Usage: `/mautic {command.usage}`") from error
        return command, {name: value for name, value in bound.arguments.items()}

    def plan(self, context: Context, stored: Operation) -> Plan:
        """Return the plan of a stored operation.

        Before the operation begins the request is made again: preconditions may raise Refused, and values may have
        changed. Once it has begun, its steps are made from the stored inputs.
        """
        again = replace(
            context,
            operation=stored.id,
            channel=stored.channel,
            actor=Actor(stored.requester, frozenset()),
        )
        command = self.command(stored.command)
        if (stored.begun or stored.undo_by) and (given := _inputs(command, again, stored)) is not None:
            return _as_stored(command, again, stored, given)
        plan = call(command, again, stored.arguments)
        if not isinstance(plan, Plan):
            raise Refused(f"Request #{stored.id} cannot be planned again.")
        return plan


def call(command: Command, context: Context, arguments: Mapping[str, Any]) -> Plan | Answer:
    """Call a command's function with arguments by name; the words of a `*rest` may be one string, as when stored."""
    parameters = inspect.signature(command.function).parameters.values()
    star = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), "")
    named = {name: value for name, value in arguments.items() if name != star}
    rest = arguments.get(star, ())
    # Parameters before a `*rest` can be given by position only.
    before = [named.pop(p.name) for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and star and p.name in named]
    result: Plan | Answer = command.function(
        context, *before, *(rest.split() if isinstance(rest, str) else rest), **named
    )
    return complete(command, context, result) if isinstance(result, Plan) else result


def complete(command: Command, context: Context, plan: Plan) -> Plan:
    """Return the plan of a request with its preconditions checked, and with its steps. Raises Refused."""
    plan = plan.checked(again=bool(context.operation))
    if command.steps is None or plan.inputs is None:
        return plan
    return plan.with_steps(command.steps(context.run(), plan.inputs))


def _inputs(command: Command, context: Context, stored: Operation) -> Any:
    """Return the inputs stored with an operation, or None if its plan came with its steps."""
    known = "inputs" in stored.plan
    inputs = stored.plan["inputs"] if known else before_inputs.of(context.fleet, context.settings, stored)
    return None if inputs is None or command.steps is None else msgspec.convert(inputs, command.inputs)


def _as_stored(command: Command, context: Context, stored: Operation, given: Any) -> Plan:
    plan = Plan(
        tenant=stored.tenant,
        arguments=stored.arguments,
        summary=stored.plan["summary"],
        facts=stored.plan["facts"],
        values=stored.plan["values"],
        reversible=stored.plan["reversible"],
        seconds=stored.plan["seconds"],
        inputs=given,
    )
    return complete(command, context, plan)


def _without_context(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function for the parser, with the same signature but without the context."""
    signature = inspect.signature(function, eval_str=True)

    def read(*_: Any, **__: Any) -> None: ...

    read.__signature__ = signature.replace(parameters=list(signature.parameters.values())[1:])  # type: ignore[attr-defined]
    read.__annotations__ = {one.name: one.annotation for one in list(signature.parameters.values())[1:]}
    read.__doc__ = function.__doc__
    return read


def _option(word: str, options: frozenset[str]) -> str:
    """Return a known option in lower case with two hyphens, because phones capitalise words; others as they are."""
    found = re.fullmatch(r"-{1,2}([A-Za-z][\w-]*)(=.*)?", word, re.S)
    name = found[1].lower() if found else ""
    return f"--{name}{found[2] or ''}" if found and name in options else word


def _joined(command: Command, words: Sequence[str]) -> str:
    """Offer one name where somebody typed a new name with spaces in it; "" otherwise."""
    typed = list(itertools.takewhile(lambda word: not word.startswith("-"), words))
    if command.name != "new" or len(typed) < 2:
        return ""
    try:
        return f"Names can't contain spaces. Did you mean `{tenant_name('-'.join(typed))}`?"
    except InvalidName:
        return ""
