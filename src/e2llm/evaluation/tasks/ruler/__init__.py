"""RULER's thirteen tasks by their published names, and a heat map (Hsieh et al. 2024, arXiv 2404.06654).

docs/ruler.md describes each task, and the differences from the published code.
"""

from e2llm.evaluation.tasks.ruler.needle_tasks import NEEDLE_TASKS, NeedleHeatMap, VariableTracking
from e2llm.evaluation.tasks.ruler.questions import HotpotQuestions, SquadQuestions
from e2llm.evaluation.tasks.ruler.ruler_task import RulerTask
from e2llm.evaluation.tasks.ruler.word_lists import CommonWords, FrequentWords

RULER_TASKS: tuple[type[RulerTask], ...] = (
    *NEEDLE_TASKS,
    VariableTracking,
    CommonWords,
    FrequentWords,
    SquadQuestions,
    HotpotQuestions,
    NeedleHeatMap,
)
