"""What the benchmark lets people judge comes back from the store as drafts and as preferences."""

import asyncio
import json

import pytest
from test_refiner_training import adapter_at, library  # noqa: F401 (a fixture)

from benchmarks.preference import judge
from factory.labels import Mixture
from factory.load import load
from factory.progress import Progress
from factory.refiner_data import gather
from factory.session import open_bench


@pytest.mark.parametrize("knows", [False, True])
def test_verdicts_about_a_refiner_that_knows_nothing_and_one_that_knows_all(library, tmp_path, knows):  # noqa: F811
    folder, skill = library
    skill["mine"] = knows
    adapter = adapter_at(tmp_path / "mine", "mine").path
    domain = load(folder)
    drafts = [each.draft for each in gather(domain, Mixture())[0] if not each.is_held_out]
    drafts = list({(draft.question, draft.answer): draft for draft in drafts}.values())

    async def run():
        async with open_bench(domain, tmp_path / "w", Progress()) as bench:
            bench.record_run()
            return await judge(bench, drafts, adapter)

    found = asyncio.run(run())
    faulty = [draft for draft in drafts if draft.corrected != draft.answer]
    num_wrong = 0 if knows else len(faulty)
    assert faulty and found.counts["judged"] == len(drafts) and found.counts["left_out"] == {}
    assert (found.counts["wrong"], found.counts["right"]) == (num_wrong, len(drafts) - num_wrong)
    wanted = {(draft.question, draft.answer): draft.corrected for draft in drafts}
    assert {(each.question, each.answer): each.corrected for each in found.drafts} == wanted
    said = [json.loads(pair["rejected"][0]["content"])["verdict"] for pair in found.preferences["dpo"]]
    assert said == ["keep"] * num_wrong
    labels = [line["label"] for line in found.preferences["kto"]]
    assert labels.count(False) == num_wrong and labels.count(True) == len(drafts)
