"""python -m bot.workspace: serve the local workspace until SIGTERM or SIGINT."""

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
from pathlib import Path

from aiohttp import web

from bot.workspace import manifest
from bot.workspace.server import LOOPBACK, Settings, build


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bot.workspace", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="another name that it may be called by, beside localhost and the address that it listens on",
    )
    parser.add_argument("--port", type=int, default=8765, help="0 takes a free one")
    parser.add_argument("--state", type=Path, required=True, help="directory that keeps the workspace's memory")
    parser.add_argument("--manifest", type=Path, help="the app's manifest (JSON)")
    parser.add_argument("--commands", type=Path, help="the app's list of subcommands (JSON)")
    parser.add_argument("--http-mode", metavar="URL", help="reach the app there by signed HTTP")
    parser.add_argument(
        "--colleagues", type=int, default=0, metavar="N", help="so many people more, called colleague-1 and on"
    )
    parser.add_argument(
        "--retry-delays",
        default="0,60,300",
        help="seconds before each retry of an event (default: %(default)s)",
    )
    return parser.parse_args()


async def _serve(arguments: argparse.Namespace) -> None:
    app_settings = manifest.read(arguments.manifest) if arguments.manifest else manifest.DEFAULT
    sock = socket.create_server((arguments.host, arguments.port), backlog=1024)
    settings = Settings(
        base_url=f"http://{arguments.host}:{sock.getsockname()[1]}",
        state_dir=arguments.state,
        manifest=app_settings,
        commands_file=arguments.commands,
        app_url=arguments.http_mode,
        retry_delays=[float(seconds) for seconds in arguments.retry_delays.split(",") if seconds],
        bot_token=os.environ.get("SLACK_BOT_TOKEN", "xoxb-local"),
        app_token=os.environ.get("SLACK_APP_TOKEN", "xapp-local"),
        signing_secret=os.environ.get("SLACK_SIGNING_SECRET", "local-signing-secret"),
        hosts=LOOPBACK | {arguments.host, *arguments.allow_host},
        colleagues=arguments.colleagues,
    )
    runner = web.AppRunner(build(settings), access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.SockSite(runner, sock).start()
    print(f"Local workspace: {settings.base_url}", flush=True)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    await runner.cleanup()


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    arguments = _arguments()
    try:
        asyncio.run(_serve(arguments))
    except OSError as problem:
        print(f"The local workspace could not start: {problem}.", file=sys.stderr)
        return 1
    except (ValueError, KeyError) as problem:
        print(f"The manifest could not be read: {problem}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
