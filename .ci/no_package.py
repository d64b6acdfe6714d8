"""A build backend that builds nothing: the bot needs its Procfile, its docs and the double, which are no modules."""

import sys


def _refuse(*_: object, **__: object) -> None:
    sys.exit("mautic-ops is no package: run it from its checkout, where `make up` installs what it needs.")


build_wheel = build_sdist = build_editable = _refuse
