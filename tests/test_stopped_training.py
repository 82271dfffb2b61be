"""A training beside the event loop is asked to stop and waited for; asked twice it ends at once."""

import asyncio
import threading

import pytest

from factory.errors import TrainingError
from factory.loop import train_in_thread
from factory.progress import Progress


class Saving:
    """A trainer that needs a moment to save what it learned, unless it is cancelled twice."""

    def __init__(self, num_cancelled_to_end):
        self.begun, self.ends, self.num_cancelled = threading.Event(), threading.Event(), 0
        self.num_cancelled_to_end = num_cancelled_to_end

    def train(self, dataset, base, directory, on_progress):
        self.begun.set()
        assert self.ends.wait(20)
        on_progress(208, 480, "goes on at step 210")
        raise TrainingError("training was cancelled")

    def cancel(self):
        self.num_cancelled += 1
        if self.num_cancelled == self.num_cancelled_to_end:
            self.ends.set()


@pytest.mark.parametrize("num_cancelled", [1, 2])
async def test_a_training_that_is_cancelled_is_waited_for_until_it_is_cancelled_again(num_cancelled, capsys):
    trainer = Saving(num_cancelled)

    async def train():
        with Progress(bars=False).stage("train", None, "steps") as bar:
            await train_in_thread(trainer, "data.jsonl", "base", "out", bar.update)

    task = asyncio.ensure_future(train())
    await asyncio.to_thread(trainer.begun.wait, 20)
    for number in range(num_cancelled):
        assert trainer.num_cancelled == number and not task.done()
        task.cancel()
        await asyncio.sleep(0.05)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert trainer.num_cancelled == num_cancelled
    if num_cancelled == 1:
        told = capsys.readouterr().err
        assert told.startswith("train: stopped by the user, 208/480 steps") and "goes on at step 210" in told
