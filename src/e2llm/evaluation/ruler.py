"""RULER's thirteen tasks by their published names (Hsieh et al. 2024, arXiv 2404.06654, appendix B).

docs/ruler.md says of each what it hides and asks, and what differs from the published code.
"""

from e2llm.evaluation.ruler_needles import (
    MultiKeyEssay,
    MultiKeyLines,
    MultiKeyUuids,
    MultiQuery,
    MultiValue,
    NeedleHeatMap,
    SingleEssay,
    SingleNoise,
    SingleUuid,
    VariableTracking,
)
from e2llm.evaluation.ruler_questions import HotpotQuestions, SquadQuestions
from e2llm.evaluation.ruler_task import RulerTask
from e2llm.evaluation.ruler_words import CommonWords, FrequentWords

RULER_TASKS: dict[str, type[RulerTask]] = {
    task.name: task
    for task in (
        SingleNoise,
        SingleEssay,
        SingleUuid,
        MultiKeyEssay,
        MultiKeyLines,
        MultiKeyUuids,
        MultiValue,
        MultiQuery,
        VariableTracking,
        CommonWords,
        FrequentWords,
        SquadQuestions,
        HotpotQuestions,
    )
}

__all__ = ["RULER_TASKS", "NeedleHeatMap"]
