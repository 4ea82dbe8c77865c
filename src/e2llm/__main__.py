"""`e2llm` and `python -m e2llm`: the command line, which an interrupt ends with one line at any moment."""

import sys


def main() -> None:
    """Run the console script `e2llm`."""
    try:
        from e2llm.cli.main import main as run

        run()
    except KeyboardInterrupt:  # while the command line itself is imported
        print("e2llm: error: interrupted; everything saved so far is intact", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
