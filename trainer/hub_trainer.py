"""A trainer that pushes checkpoints to the Hugging Face Hub without the private files of the run."""

import shutil
from concurrent.futures import Future
from functools import partial
from pathlib import Path

from huggingface_hub import CommitInfo
from transformers import Trainer
from transformers.trainer_utils import HubStrategy
from transformers.utils import logging
from transformers.utils.hub import PushInProgress

from ..modeling_unisrec import UniSRecProcessor
from ..modeling_unisrec.hub import api, create_repository, upload_checkpoint, upload_state
from ..modeling_unisrec.outgoing import check_adapter_base, check_outgoing, shared_files


logger = logging.get_logger(__name__)


class HubTrainer(Trainer):
    r"""
    `Trainer` whose pushes leave out what the parent's have in them: pickled arguments, logs and results of the run.

    With `hub_strategy="checkpoint"` or `"all_checkpoints"` the state of the training goes up too, in a folder of its own,
    as the parent writes it; only that holds pickles. Training waits for it, since the next save may delete its folder.
    Where `hub_always_push` lets no save pass by, training waits for the push before, so that each commit holds the step it
    names.
    """

    _processor: UniSRecProcessor | None

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Creates the repository, and its branch `args.hub_revision`, where they are not there yet. Raises `ValueError` if
        nobody else could load what is trained: adapters whose base is a folder of this machine."""
        for adapter in getattr(self.model, "peft_config", {}).values():
            check_adapter_base(Path(self.args.output_dir), adapter.to_dict())
        if self.is_world_process_zero():
            self.hub_model_id = create_repository(
                self.args.hub_model_id or Path(self.args.output_dir).absolute().name,
                private=self.args.hub_private_repo if private is None else private,
                revision=self.args.hub_revision,
                token=token or self.args.hub_token,
            )
            self.push_in_progress = None

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves as the parent does. With `args.push_to_hub`, also pushes the output folder, saved only once."""
        if self.args.push_to_hub and not _internal_call and output_dir in (None, self.args.output_dir):
            self.push_to_hub()
        else:
            super().save_model(output_dir, _internal_call)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs,
    ) -> CommitInfo | Future[CommitInfo] | None:
        r"""
        Saves model, processor and card, and uploads them.

        Args:
            commit_message (`str`, *optional*, defaults to `"End of training"`): Commit message.
            blocking (`bool`, *optional*, defaults to `True`): Whether to wait for the upload.
            token (`str`, *optional*): Token instead of `args.hub_token`.
            revision (`str`, *optional*): An existing branch instead of `args.hub_revision`.
            private (`bool`, *optional*): Whether a new repository is private; defaults to `args.hub_private_repo`.
            **kwargs: For `create_model_card`.

        Returns:
            `CommitInfo`, or a `Future` of it without `blocking`; `None` in all processes but the first.

        Raises:
            OSError: If the upload fails; the output folder is complete then.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self._finish_current_push()  # an upload reads the folder that the save writes
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        if kwargs:  # saving has written the card that follows from the training alone
            self.create_model_card(**kwargs)
        folder = Path(self.args.output_dir)
        upload = partial(
            upload_checkpoint,
            folder,
            self.hub_model_id,
            commit_message,
            revision=revision or self.args.hub_revision,
            token=token or self.args.hub_token,
        )
        if not blocking:
            return api.run_as_future(upload)
        try:
            return upload()
        except (OSError, ValueError) as error:
            raise OSError(f"{error}; the checkpoint is complete: unisrec push {folder} {self.hub_model_id}") from error

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        strategy = self.args.hub_strategy
        if not self.is_world_process_zero() or strategy == HubStrategy.END:
            return
        if not self.args.hub_always_push and self.push_in_progress is not None and not self.push_in_progress.is_done():
            return
        self._finish_current_push()  # an upload reads the folder that the next lines write
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        # The folder of a checkpoint may be deleted by the next save, while an upload still reads it.
        checkpoint, folder = Path(checkpoint_folder), Path(self.args.output_dir)
        try:
            check_outgoing(checkpoint, shared_files(checkpoint))
        except ValueError as error:
            logger.warning("a checkpoint was not pushed: %s", error)
            return
        for name in shared_files(checkpoint):
            if name != "README.md":
                shutil.copy(checkpoint / name, folder / name)
        if self.push_in_progress is None and self._processor is not None:
            self._processor.save_pretrained(folder)
        message = f"Training in progress, step {self.state.global_step}"
        target = {"repo_id": self.hub_model_id, "revision": self.args.hub_revision, "token": self.args.hub_token}
        jobs = [api.run_as_future(upload_checkpoint, folder, message=message, **target)]
        if strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            place = "last-checkpoint" if strategy == HubStrategy.CHECKPOINT else checkpoint.name
            title = f"{message}, state of the training"
            jobs.append(api.run_as_future(upload_state, checkpoint, place, message=title, **target))
        self.push_in_progress = PushInProgress(jobs)
        if len(jobs) > 1:
            self._finish_current_push()

    def _finish_current_push(self) -> None:
        """Waits for the uploads that run. One that failed is a warning: the training is worth more."""
        super()._finish_current_push()
        if self.hub_model_id is None or self.push_in_progress is None:
            return
        for job in self.push_in_progress.jobs:
            if (error := job.exception()) is not None:
                logger.warning("a checkpoint was not pushed: %s", " ".join(str(error).split()))
        self.push_in_progress = PushInProgress([])


__all__ = ["HubTrainer"]
