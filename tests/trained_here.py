"""A trainer that trains in this process, for tests of what is learned and not of the process that learns it.

It does what `training.worker` does, whose start takes longer than a tiny training. Processes are tested in
test_qlora, test_train_command, test_training_resume and test_several_processes.
"""

from __future__ import annotations

import json
from functools import partial

from training.following import Follower
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
        follower = Follower(jobs, on_progress)

        def report(event, **values):
            follower.take(json.dumps({"event": event, **values}))

        prepared = [sft.prepare(job) for job in jobs]
        report("plan", num_steps=[each.num_steps + each.num_judged_steps for each in prepared])
        for index, each in enumerate(prepared):
            stopped_early = sft.train(each, partial(report, "step", job=index))
            close_partial(each.job)
            report("done", job=index, **stopped_early)
