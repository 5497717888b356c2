"""The `lipsync` command, also as `python -m lipsync_cli`."""

from __future__ import annotations

import sys

from lipsync_cli.extras import advice


def main() -> None:
    """Runs the command, or says which extra it needs."""
    try:
        from lipsync_cli.main import main as run
    except ModuleNotFoundError as error:
        if (text := advice(error)) is None:
            raise
        sys.exit(f"error: {text}")  # code 1
    except KeyboardInterrupt:  # the command has not begun
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
