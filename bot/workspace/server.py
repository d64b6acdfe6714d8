"""Puts the workspace together as one aiohttp application."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Middleware

from bot.workspace.control import Control, Handler, plain_refusals
from bot.workspace.delivery import Delivery, Faults
from bot.workspace.events import Events
from bot.workspace.files import Files
from bot.workspace.http_mode import HttpMode
from bot.workspace.interactions import Interactions
from bot.workspace.manifest import Manifest
from bot.workspace.response_urls import ResponseUrls
from bot.workspace.socket_mode import SocketMode
from bot.workspace.state import State
from bot.workspace.web_api import WebApi

PAGE = Path(__file__).parent / "page"
LOOPBACK = frozenset(["127.0.0.1", "localhost", "::1"])


@dataclass(frozen=True)
class Settings:
    """The settings of the workspace.

    `base_url` has no slash at its end. `app_url`, the app's request URL, selects signed HTTP in place of Socket Mode.
    `hosts`: the names in Host headers that the server accepts, without ports. `colleagues`: how many people there are
    in addition to those with a role.
    """

    base_url: str
    state_dir: Path
    manifest: Manifest
    commands_file: Path | None
    app_url: str | None
    retry_delays: Sequence[float]
    bot_token: str
    app_token: str
    signing_secret: str
    hosts: frozenset[str] = LOOPBACK
    colleagues: int = 0


def build(settings: Settings) -> web.Application:
    """Return the application, ready to be served at `settings.base_url`."""
    state = State(settings.state_dir, settings.colleagues)
    faults = Faults()
    socket_mode = SocketMode()
    http_mode = HttpMode(settings.app_url, settings.signing_secret) if settings.app_url else None
    delivery = Delivery(http_mode or socket_mode, faults, settings.retry_delays)
    events = Events(state, delivery, settings.manifest.events)
    files = Files(state, settings.base_url)
    interactions = Interactions(state, delivery, events, files, settings.manifest, settings.base_url)
    api = WebApi(
        state,
        interactions,
        events,
        socket_mode,
        faults,
        settings.base_url,
        settings.bot_token,
        settings.app_token,
    )
    control = Control(state, interactions, events, faults, socket_mode, settings.commands_file)

    app = web.Application(
        client_max_size=64 * 2**20, middlewares=[_called_by(settings.hosts), _same_origin, plain_refusals]
    )
    app.add_routes(control.routes())
    app.add_routes(
        [
            web.get("/api/{method}", api.handle, allow_head=False),
            web.post("/api/{method}", api.handle),
            web.get("/link/", socket_mode.handle),
            web.post("/response/{key}", ResponseUrls(state, events).handle),
            web.post("/upload/{file_id}", files.upload),
            web.get("/files/{file_id}/{name}", files.download),
            web.get("/archives/{channel}/{message}", _page),
            web.get("/", _page),
        ]
    )
    if PAGE.is_dir():
        app.router.add_static("/", PAGE)

    async def run(app: web.Application) -> AsyncIterator[None]:
        yield
        delivery.close()
        if http_mode:
            await http_mode.close()

    async def leave(app: web.Application) -> None:
        await socket_mode.close()

    app.cleanup_ctx.append(run)
    app.on_shutdown.append(leave)
    return app


def _called_by(hosts: frozenset[str]) -> Middleware:
    """Return a middleware that answers only to these host names: another site's name may resolve to this machine."""

    @web.middleware
    async def called_by(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            name = urlsplit(f"//{request.headers.get('Host', '')}").hostname
        except ValueError:
            name = None
        if name not in hosts:
            return web.json_response({"ok": False, "error": "The workspace is not called that."}, status=403)
        return await handler(request)

    return called_by


@web.middleware
async def _same_origin(request: web.Request, handler: Handler) -> web.StreamResponse:
    # A client of /_control/ can act as anybody, so a page of another site in the same browser must not reach it.
    origin = request.headers.get("Origin")
    if origin and urlsplit(origin).netloc != request.host:
        return web.json_response({"ok": False, "error": "This page is of another origin."}, status=403)
    return await handler(request)


async def _page(request: web.Request) -> web.StreamResponse:
    # The page reads the channel and message of a permalink from its own address.
    return web.FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-store"})
