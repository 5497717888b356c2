"""`python -m lipsync_cli` is the `lipsync` command."""

from lipsync_cli.main import main

main()
