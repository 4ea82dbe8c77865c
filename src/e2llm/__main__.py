"""`python -m e2llm`."""

from e2llm.cli.main import main

main()
