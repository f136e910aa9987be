"""`python -m probattn` is the command line."""

from probattn.cli import main

main()
