"""`python -m e2llm.evaluation.harness`: lm_eval's command line with the model type `e2llm`."""

import sys

from e2llm.evaluation.harness import main

if __name__ == "__main__":
    sys.exit(main())
