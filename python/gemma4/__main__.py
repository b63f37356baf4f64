"""`python -m gemma4`: the command line, where the command `gemma4` is not on the path."""

from __future__ import annotations

from .command.cli import main

main()
