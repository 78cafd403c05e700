"""`python -m latentreason` is the command `latentreason`."""

from latentreason.cli import main

main()
