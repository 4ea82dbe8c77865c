"""The tasks by name: adding one is one class and one line here."""

from pathlib import Path

from e2llm.errors import E2LLMError
from e2llm.evaluation.items import Task
from e2llm.evaluation.tasks.code_completion import CodeCompletionTask
from e2llm.evaluation.tasks.dialogue_recall import DialogueRecallTask
from e2llm.evaluation.tasks.likelihood import PerplexityTask, RestatementTask
from e2llm.evaluation.tasks.records import (
    AnswersTask,
    CovidQATask,
    FairytaleQATask,
    FileTask,
    GovReportTask,
    LongBenchV2Task,
    NarrativeQATask,
    QMSumTask,
    QualityTask,
    RecallTask,
    RestatedRecordsTask,
    SciSummNetTask,
    SqualityTask,
    TriviaQATask,
)
from e2llm.evaluation.tasks.ruler import RULER_TASKS

_TASKS: tuple[type[Task], ...] = (
    *RULER_TASKS,
    FairytaleQATask,
    NarrativeQATask,
    TriviaQATask,
    CovidQATask,
    QMSumTask,
    SqualityTask,
    GovReportTask,
    SciSummNetTask,
    QualityTask,
    LongBenchV2Task,
    CodeCompletionTask,
    DialogueRecallTask,
    RestatementTask,
    PerplexityTask,
)
TASKS = {task.name: task for task in _TASKS}

FILE_TASKS: dict[str, type[FileTask]] = {
    task.name: task for task in (AnswersTask, RecallTask, RestatedRecordsTask)
}


def create_task(name: str) -> Task:
    """Make a task by its name, or by `answers=FILE`, `recall=FILE` or `restatement=FILE` one of records.

    Raises:
        E2LLMError: If there is no such task; the message lists all tasks.
    """
    kind, equals, file = name.partition("=")
    if equals and kind in FILE_TASKS and file:
        return FILE_TASKS[kind](Path(file))
    if name in TASKS:
        return TASKS[name]()
    known = ", ".join([*TASKS, *(f"{kind}=FILE" for kind in FILE_TASKS)])
    raise E2LLMError(f"unknown task {name!r}; choose from: {known}")
