"""The log of a run as TensorBoard event files."""

from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from e2llm.errors import MissingExtraError

FOLDER_NAME = "tensorboard"


class TensorBoardCallback(TrainerCallback):  # type: ignore[misc]
    """Writes every number of the log; a resumed run goes on where its checkpoint was.

    Args:
        folder: Folder of the run; events go to its sub-folder `tensorboard`.

    Raises:
        MissingExtraError: If TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            import tensorboard  # noqa: F401
        except ImportError as error:
            raise MissingExtraError("tensorboard", "track") from error
        self.folder = folder / FOLDER_NAME
        self.writer: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the event file; what an earlier try wrote of later steps no longer counts."""
        if state.is_world_process_zero:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(self.folder), purge_step=state.global_step + 1)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Write the numbers, held-out ones under their own heading."""
        if self.writer is None:
            return
        for name, value in (logs or {}).items():
            if isinstance(value, int | float):
                kind, _, rest = name.partition("_")
                # What transformers sums up at the end (`train_loss`, `train_runtime`) is of the whole run.
                heading = {"eval": "held_out", "train": "whole_run"}.get(kind, "train")
                tag = f"{heading}/{name if heading == 'train' else rest}"
                self.writer.add_scalar(tag, value, state.global_step)
        self.writer.flush()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the file."""
        if self.writer is not None:
            self.writer.close()
            self.writer = None
