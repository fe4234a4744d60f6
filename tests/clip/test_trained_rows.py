"""A checkpoint says which pictures its model was trained on."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from jest_loader.clip import train as training
from jest_loader.clip.commands.cache import CacheConfig, cache_command
from jest_loader.clip.config.selection import SelectionConfig
from jest_loader.clip.saving import checkpoint
from jest_loader.clip.step.trained_rows import TrainedRows
from jest_loader.clip.train import train
from jest_loader.pack import write_mds
from jest_loader.ranks.ranks import Ranks
from jest_loader.seen import SEEN, UNSEEN, content_keys
from jest_loader.testing import simulate_ranks
from tests.clip.test_cache import COLUMNS as ENCODED
from tests.clip.test_cache import rows as encoded_rows
from tests.clip_runs import COLUMNS, config_for


def distinct_rows(first, last):
    """Pictures of eight by eight pixels, no two alike."""
    for row in range(first, last):
        image = np.zeros((8, 8), dtype=np.uint8)
        image[row % 8] = 255
        image[:, 0] = row
        yield {"image": image, "caption": f"bar {row % 8}"}


def keys_of(rows):
    return content_keys(np.stack([row["image"] for row in rows]))


@pytest.fixture(scope="module")
def distinct(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distinct")
    write_mds(folder / "train", COLUMNS, distinct_rows(0, 96))
    write_mds(folder / "test", COLUMNS, distinct_rows(200, 216))
    return folder


def seen_by(out):
    return checkpoint.load_model(out / "checkpoint.pt").seen


def test_it_knows_all_pictures_of_an_epoch_and_no_others(distinct, tmp_path):
    train(config_for(distinct, tmp_path / "run"))
    seen = seen_by(tmp_path / "run")
    assert seen.most_known is None
    assert len(seen.keys) == 96
    assert set(seen.marks(keys_of(distinct_rows(0, 96))).tolist()) == {SEEN}
    assert set(seen.marks(keys_of(distinct_rows(96, 200))).tolist()) == {UNSEEN}


def test_it_knows_only_what_was_chosen(distinct, tmp_path):
    selection = SelectionConfig("topk", "hard_learner", filter_ratio=0.5)
    chosen = []
    config = config_for(distinct, tmp_path / "run", selection=selection, steps=3)
    step = training._train_step

    def noted(run, batch):
        chosen.extend(batch["sample_id"].tolist())
        step(run, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_train_step", noted)
        train(config)
    marks = seen_by(tmp_path / "run").marks(keys_of(distinct_rows(0, 96)))
    assert np.flatnonzero(marks == SEEN).tolist() == sorted(set(chosen))
    assert len(set(chosen)) == 24


def test_a_run_that_goes_on_has_what_it_had(distinct, tmp_path, monkeypatch):
    config = config_for(distinct, tmp_path / "run", checkpoint_every=4)
    step = training._train_step

    def until_the_eighth(run, batch):
        if run.step == 7:
            raise KeyboardInterrupt
        return step(run, batch)

    monkeypatch.setattr(training, "_train_step", until_the_eighth)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    assert len(seen_by(tmp_path / "run").keys) == 32
    monkeypatch.undo()
    train(config)
    assert len(seen_by(tmp_path / "run").keys) == 96


def test_encoded_pictures_are_known_by_their_bytes(tmp_path):
    rows = list(encoded_rows(0, 8))  # Eight pictures, which come again and again.
    write_mds(tmp_path / "train", ENCODED, encoded_rows(0, 96))
    config = config_for(tmp_path, tmp_path / "run")
    config = replace(config, data=replace(config.data, test=None))
    train(config)
    seen = seen_by(tmp_path / "run")
    assert sorted(seen.keys.tolist()) == sorted(content_keys([r["image"] for r in rows]).tolist())


def test_ranks_know_what_all_have_trained_on():
    def run(group):
        rows, ranks = TrainedRows(most=100), Ranks(group)
        for step in range(3):
            first = 100 * step + 10 * group.rank
            rows.add(torch.arange(first, first + 10 - group.rank))
            if step != 1:
                rows.gather(ranks)
        return rows.state_dict()["keys"].tolist()

    expected = [
        100 * step + 10 * rank + row
        for step in range(3)
        for rank in range(3)
        for row in range(10 - rank)
    ]
    assert simulate_ranks(3, run) == [expected] * 3


def test_too_many_rows_leave_the_same_share_on_any_number_of_ranks():
    keys = torch.from_numpy(np.random.default_rng(0).integers(-(2**63), 2**63 - 1, 90_000))

    def run(group):
        rows, ranks = TrainedRows(most=1000), Ranks(group)
        for step, part in enumerate(keys.split(3000)):
            rows.add(part[group.rank :: group.size])
            if step % 7 == 0:
                rows.gather(ranks)
        rows.gather(ranks)
        state = rows.state_dict()
        return state["keys"].tolist(), state["most_known"]

    smallest = sorted(keys.tolist())[:1000]
    for num_ranks in (1, 3):
        assert simulate_ranks(num_ranks, run) == [(smallest, smallest[-1])] * num_ranks


def test_what_a_rank_could_not_keep_is_not_known_to_any():
    def run(group):
        rows = TrainedRows(most=100)
        rows.add(torch.arange(200))  # The same on both: together no more than may be kept.
        rows.gather(Ranks(group))
        return rows.state_dict()["most_known"]

    assert simulate_ranks(2, run) == [99, 99]


def test_what_cannot_be_a_record_is_refused(distinct, tmp_path):
    train(config_for(distinct, tmp_path / "run", steps=1))
    path = tmp_path / "run" / "checkpoint.pt"
    contents = torch.load(path, weights_only=True)
    contents["seen"] = {"keys": torch.zeros(2, 2), "most_known": None}
    torch.save(contents, path)
    with pytest.raises(ValueError, match=r"holds no run that can be: a record of seen rows must"):
        checkpoint.load(path)


def caching(distinct, tmp_path, **changes):
    """A reference trained on the first 16 of the 96 rows of the data, and the cache of those."""
    write_mds(tmp_path / "first" / "train", COLUMNS, distinct_rows(0, 16), overwrite=True)
    config = config_for(tmp_path / "first", tmp_path / "reference", steps=4)
    train(replace(config, data=replace(config.data, test=None)))
    return cache_command(
        CacheConfig(
            data=distinct / "train",
            checkpoint=tmp_path / "reference" / "checkpoint.pt",
            out=tmp_path / "cache",
            device="cpu",
            **changes,
        )
    )


def selecting(tmp_path, **changes):
    settings = {"filter_ratio": 0.5, "num_chunks": 2, "exclude_seen": True, **changes}
    return SelectionConfig("joint", **settings)


def test_pictures_are_known_again_in_other_shards(distinct, tmp_path, caplog):
    found = caching(distinct, tmp_path)
    assert found.endswith("of width 8; the reference was trained on 16.7 % of them")
    (text,) = [line for line in caplog.messages if "was trained on 16.7 % of these data" in line]
    assert "leave those rows out with selection.exclude_seen" in text
    cache, checkpoint = tmp_path / "cache", tmp_path / "reference" / "checkpoint.pt"
    chosen = []
    step = training._train_step

    def noted(run, batch):
        chosen.append(batch["sample_id"].tolist())
        step(run, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_train_step", noted)
        for name, reference in (
            ("cached", {"reference_cache": cache}),
            ("live", {"reference_checkpoint": checkpoint}),
            ("easy", {"reference_cache": cache, "score": "easy_reference"}),
        ):
            chosen.clear()
            selection = selecting(tmp_path, **reference)
            run = train(config_for(distinct, tmp_path / name, selection=selection))
            assert all(row >= 16 for batch in chosen for row in batch)
            assert run.counts.seen == 2 * 16  # Two epochs of six steps.
            assert run.counts.trained == 96


def test_a_run_does_not_go_on_with_candidates_that_it_left_out(distinct, tmp_path):
    caching(distinct, tmp_path)
    config = config_for(distinct, tmp_path / "run", steps=2)
    selection = selecting(tmp_path, reference_cache=tmp_path / "cache")
    train(replace(config, selection=selection))
    others = replace(selection, exclude_seen=False)
    with pytest.raises(ValueError, match=r"holds a run with selection.exclude_seen = True"):
        train(replace(config, selection=others))
    with pytest.raises(ValueError, match=r"selection.exclude_seen has no effect while"):
        replace(config, selection=SelectionConfig(exclude_seen=True))
