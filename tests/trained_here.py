"""A trainer that trains in this process, for tests of what is learned and not of the process that learns it.

It does what `training.worker` does, whose start takes longer than a tiny training. Processes are tested in
test_qlora, test_train_command, test_training_resume and test_several_processes.
"""

from __future__ import annotations

from training.qlora import QLoRA
from training.resume import close_partial, open_partial


class Here(QLoRA):
    """As the worker trains: jobs are prepared together, and each is put in its place when it is whole."""

    def _run(self, jobs, on_progress):
        import torch

        from training import sft

        torch.set_num_threads(self.options.num_threads)
        for job in jobs:
            open_partial(job)
        for each in [sft.prepare(job) for job in jobs]:
            sft.train(each, lambda step, of, loss: on_progress(step, of))
            close_partial(each.job)
