"""`python -m probattn` is the command line."""

from probattn.cli.app import main

main()
