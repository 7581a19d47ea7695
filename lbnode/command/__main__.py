"""``python -m lbnode.command`` is ``samegate``."""

from lbnode.command.app import main

main()
