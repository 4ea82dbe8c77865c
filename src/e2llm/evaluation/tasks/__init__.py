"""The tasks by name: adding one is one class and one line here."""

from pathlib import Path

from e2llm.errors import E2LLMError
from e2llm.evaluation.items import Task
from e2llm.evaluation.tasks.code_completion import CodeCompletionTask
from e2llm.evaluation.tasks.continuations import PerplexityTask, RestatementTask
from e2llm.evaluation.tasks.dialogue_recall import DialogueRecallTask
from e2llm.evaluation.tasks.record_tasks import DATA_SET_TASKS, FILE_TASKS
from e2llm.evaluation.tasks.ruler import RULER_TASKS

__all__ = ["FILE_TASKS", "TASKS", "create_task"]

_TASKS: tuple[type[Task], ...] = (
    *RULER_TASKS,
    *DATA_SET_TASKS,
    CodeCompletionTask,
    DialogueRecallTask,
    RestatementTask,
    PerplexityTask,
)
TASKS = {task.name: task for task in _TASKS}


def create_task(name: str) -> Task:
    """Make a task by its name, or by `answers=FILE`, `recall=FILE` or `restatement=FILE` one of records.

    Raises:
        E2LLMError: If the name is unknown; the message lists all tasks.
    """
    kind, equals, file = name.partition("=")
    if equals and kind in FILE_TASKS and file:
        return FILE_TASKS[kind](Path(file))
    if name in TASKS:
        return TASKS[name]()
    known = ", ".join([*TASKS, *(f"{kind}=FILE" for kind in FILE_TASKS)])
    raise E2LLMError(f"unknown task {name!r}; choose from: {known}")
