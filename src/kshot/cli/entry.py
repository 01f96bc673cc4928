"""Where the command `kshot` begins: so small that Ctrl-C while the rest is imported ends it with a sentence too."""

import sys


def main() -> None:
    """Import the command line, and run it."""
    try:
        from kshot.cli.main import main as run

        run()
    except KeyboardInterrupt:
        print("error: interrupted; nothing was computed yet.", file=sys.stderr)
        sys.exit(130)
