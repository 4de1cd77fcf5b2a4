"""The checkpoints of a run, in its folder.

last.pth.tar    all that an exact resume needs, written after every epoch and every ten minutes
best.pth.tar    the same, for the epoch with the lowest validation loss
final.pth.tar   {"state_dict": weights of best}, like the published files; weights of an entropy model that was attached
                to a published model are beside them, under "latent_codec"
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from models.weights import LATENT_CODEC
from training.run_folder import shown
from training.state import State
from utils.checkpoint import load_checkpoint, load_weights, save_checkpoint
from utils.errors import ProjectError

CHECKPOINT_INTERVAL = 600.0  # seconds between checkpoints within an epoch


class Checkpoints:
    """Write the checkpoints of a run.

    Args:
        folder: the folder of the run; None in a process that writes nothing.
        data: facts about the data set that must be the same when the run is resumed.
    """

    def __init__(self, folder: Path | None, data: Mapping) -> None:
        self.folder = folder
        self._data = dict(data)
        self._saved_at = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether the last checkpoint is at least `CHECKPOINT_INTERVAL` old."""
        return time.monotonic() - self._saved_at >= CHECKPOINT_INTERVAL

    def save(self, name: str, state: State) -> None:
        """Write `name`.pth.tar atomically.

        Raises:
            ProjectError: the disk is full or the folder cannot be written; the old file is still there.
        """
        if self.folder is None:
            return
        path = self.folder / f"{name}.pth.tar"
        try:
            save_checkpoint({**state.state_dict(), "data": self._data}, path)
        except OSError as error:
            good = self.last_good()
            remedy = f"resume from {shown(good)}" if good else "start again: there is no checkpoint yet"
            raise ProjectError(f"{shown(path)} cannot be written: {error.strerror}; make room and {remedy}") from None
        self._saved_at = time.monotonic()

    def save_final(self, state: State) -> Path:
        """Load the weights of best.pth.tar into the model, write them as final.pth.tar and return its path.

        The model and the file get the tables of the range coder.
        """
        assert self.folder is not None  # only the main process calls it
        best, final, model = self.folder / "best.pth.tar", self.folder / "final.pth.tar", state.model
        state_dict = load_checkpoint(best)["state_dict"]
        load_weights(model, state_dict, best)
        if model.has_entropy_model:
            model.update(force=True, update_quantiles=True)
            state_dict = {key: tensor.cpu() for key, tensor in model.state_dict().items()}
        content = {"state_dict": state_dict}
        if model.is_extended:
            codec = [key for key in state_dict if key.startswith(LATENT_CODEC)]
            content["latent_codec"] = {key.removeprefix(LATENT_CODEC): state_dict.pop(key) for key in codec}
        save_checkpoint(content, final)
        return final

    def last_good(self) -> Path | None:
        """Return the path of the checkpoint to resume from, None if there is none yet."""
        paths = (self.folder / f"{name}.pth.tar" for name in ("last", "best")) if self.folder else ()
        return next((path for path in paths if path.exists()), None)
