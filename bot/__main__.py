"""The command line: `python -m bot run` runs the bot; the other verbs set up and remove its environment."""

import gc
import sys

# Loaded modules are never freed: collecting garbage among them takes a tenth of the startup time.
gc.disable()

from bot.program import main  # noqa: E402

gc.freeze()
gc.enable()

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
