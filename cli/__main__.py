"""`python -m cli`: the same as the console script, for a supervisor that knows its interpreter."""

from cli.main import main

main()
