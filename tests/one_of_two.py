"""One of two processes that train, as torch's launcher starts them; and writes down what it saw.

`python -m torch.distributed.run --nproc_per_node 2 one_of_two.py JOB.json` trains as `training.worker` does,
and writes into saw_0.json or saw_1.json which samples it learned and what it holds in the end, which a worker
tells nobody. It also has processors share a base, as accelerate has GPUs alone do: it is told that they are.
"""

import hashlib
import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import DistributedType
from transformers import TrainerCallback

from training import ranks, sft


def pass_processors_for_gpus():
    PartialState._prepare_backend = lambda *_args, **_options: ("gloo", DistributedType.MULTI_GPU)
    PartialState.set_device = lambda self: setattr(self, "device", torch.device("cpu"))
    dist.init_process_group("gloo")


class Watch(TrainerCallback):
    """Wraps the trainer's collator, and forgets what was looked at before training."""

    def __init__(self, trainer, rows):
        known = {tuple(row.input_ids): index for index, row in enumerate(rows)}
        collate, self.seen, self.model = trainer.data_collator, [], trainer

        def watch(batch):
            self.seen.extend(known[tuple(row["input_ids"])] for row in batch)
            return collate(batch)

        trainer.data_collator = watch
        trainer.add_callback(self)

    def on_train_begin(self, *_args, **_options):
        self.seen.clear()

    def on_train_end(self, *_args, model, **_options):
        held = hashlib.sha256()
        for parameter in model.parameters():
            if parameter.requires_grad:
                held.update(parameter.detach().numpy().tobytes())
        num_held = sum(parameter.numel() for parameter in model.parameters())
        found = {"seen": self.seen, "held": held.hexdigest(), "num_held": num_held}
        Path(f"saw_{ranks.number()}.json").write_text(json.dumps(found))


def main(job):
    torch.set_num_threads(1)
    if job["options"]["parallel"] == "fsdp":
        pass_processors_for_gpus()
    else:
        ranks.join(job["options"])
    prepared = sft.prepare(job)
    make = sft.make_trainer

    def watched(*given):
        made = make(*given)
        Watch(made, prepared.rows)
        return made

    sft.make_trainer = watched
    sft.train(prepared, lambda **_: None)
    ranks.leave()


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
