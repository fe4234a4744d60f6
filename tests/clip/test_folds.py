"""Cross-fitted references: caches side by side, which a run is scored by in turn."""

from dataclasses import replace

import pytest

from jest_loader.clip import train as training
from jest_loader.clip.commands.cache import (
    CacheConfig,
    VerifyConfig,
    cache_command,
    verify_command,
)
from jest_loader.clip.config.selection import SelectionConfig
from jest_loader.clip.train import train
from jest_loader.pack import write_mds
from jest_loader.reference_cache import CachedReference, open_folds
from jest_loader.reference_cache.folds import fold_paths
from tests.clip.test_trained_rows import distinct_rows
from tests.clip_runs import COLUMNS, config_for


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """96 rows; references trained on the first 16, the next 16 and both; a cache of two of them."""
    folder = tmp_path_factory.mktemp("folds")
    write_mds(folder / "train", COLUMNS, distinct_rows(0, 96))
    write_mds(folder / "test", COLUMNS, distinct_rows(200, 216))
    for name, first, last in (("a", 0, 16), ("b", 16, 32), ("both", 0, 32)):
        write_mds(folder / f"of_{name}" / "train", COLUMNS, distinct_rows(first, last))
        config = config_for(folder / f"of_{name}", folder / name, steps=4)
        train(replace(config, data=replace(config.data, test=None)))
    cache_command(command(folder, "a", "b"))
    return folder


def command(folder, *names, **changes):
    settings = {
        "data": folder / "train",
        "folds": tuple(folder / name / "checkpoint.pt" for name in names),
        "out": folder / "cache",
        "device": "cpu",
        **changes,
    }
    return CacheConfig(**settings)


def selecting(folder, **changes):
    settings = {"filter_ratio": 0.5, "num_chunks": 2, "reference_cache": folder / "cache"}
    return SelectionConfig("joint", **{**settings, **changes})


def run(folder, out, **changes):
    """Train, and return the sample ids of each step."""
    chosen = []
    step = training._train_step

    def noted(run, batch):
        chosen.append(batch["sample_id"].tolist())
        step(run, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_train_step", noted)
        trained = train(config_for(folder, out, selection=selecting(folder, **changes)))
    return trained, chosen


def test_no_step_is_chosen_by_one_that_has_seen_it(folder, tmp_path):
    trained, chosen = run(folder, tmp_path / "run")
    for batch in chosen:
        assert not (min(batch) < 16 and any(16 <= row < 32 for row in batch))
    assert {row < 16 for batch in chosen for row in batch if row < 32} == {True, False}
    assert 16 < trained.counts.seen < 64  # Of 192 candidates, a sixth of which each has seen.
    assert " and " in (trained.reference or "")
    assert trained.flops > 0


def test_a_run_that_stopped_goes_on_with_the_same_turns(folder, tmp_path, monkeypatch):
    _, whole = run(folder, tmp_path / "whole")
    step = training._train_step

    def until_the_eighth(run, batch):
        if run.step == 7:
            raise KeyboardInterrupt
        return step(run, batch)

    with monkeypatch.context() as patch:
        patch.setattr(training, "_train_step", until_the_eighth)
        with pytest.raises(KeyboardInterrupt):
            train(config_for(folder, tmp_path / "run", selection=selecting(folder)))
    _, rest = run(folder, tmp_path / "run")
    assert rest == whole[5:]


def test_the_command_says_who_has_seen_what(folder, tmp_path, caplog):
    found = cache_command(command(folder, "a", "b"))
    assert found.endswith(
        "cache: 2 references, which were trained on 16.7, 16.7 % of 96 examples; 0.0 % of the "
        "examples have been seen by each"
    )
    assert not [line for line in caplog.messages if "of these data" in line]
    found = cache_command(command(folder, "a", "both", out=tmp_path / "cache"))
    assert found.endswith(
        "16.7, 33.3 % of 96 examples; 16.7 % of the examples have been seen by each"
    )
    (warned,) = [line for line in caplog.messages if "of these data" in line]
    assert warned.startswith("17 % of these data have been seen by each of the references")
    assert "never chosen; train the references on parts that do not overlap" in warned


def test_folds_are_verified_one_by_one(folder, tmp_path):
    found = verify_command(VerifyConfig(cache=folder / "cache", data=folder / "train"))
    assert "whole; fold-0: 96 examples" in found
    assert "; fold-1: 96 examples" in found
    folds = command(folder, "a", "b").folds
    verify_command(VerifyConfig(cache=folder / "cache", folds=folds))
    with pytest.raises(ValueError, match=r"the model of .*fold-0 is"):
        verify_command(VerifyConfig(cache=folder / "cache", folds=folds[::-1]))
    with pytest.raises(ValueError, match=r"is of 2 and 1 are; name all of them, or none"):
        verify_command(VerifyConfig(cache=folder / "cache", checkpoint=folds[0]))


def test_folds_are_opened_by_their_own_function(folder):
    assert len(open_folds(folder / "cache").references) == 2
    with pytest.raises(
        ValueError, match=r"is of several, which score in turn; open it with .*folds"
    ):
        CachedReference.open(folder / "cache")
    with pytest.raises(ValueError, match=r"at least two references"):
        open_folds(folder / "cache" / "fold-0")


def test_a_cache_of_folds_is_not_there_before_all_of_them_are(folder, tmp_path):
    cache_command(command(folder, "a", "b", out=tmp_path / "cache"))
    (tmp_path / "cache" / "folds.json").unlink()
    with pytest.raises(ValueError, match=r"must be whole, but its building was stopped"):
        fold_paths(tmp_path / "cache")
    cache_command(command(folder, "a", "b", out=tmp_path / "cache"))
    for content in ('{"num_folds": 1}', "{", "[]"):
        (tmp_path / "cache" / "folds.json").write_text(content)
        with pytest.raises(ValueError, match=r"must say how many folds there are, but is damaged"):
            open_folds(tmp_path / "cache")


@pytest.mark.parametrize(
    ("names", "changes", "message"),
    [
        (["a"], {}, "folds are at least two checkpoints, got one; set checkpoint"),
        (["a", "b", "a"], {}, r"folds must be different checkpoints, .* got one twice: "),
        (["a", "b", "both"], {}, "holds a cache of 2 folds, which cannot go on with 3"),
        (["b", "a"], {}, r"fold-0 holds a reference cache with model"),
        (["a", "b"], {"out": "cache/fold-0"}, "holds a cache of one reference, and cannot hold"),
        (["a", "b"], {"checkpoint": "a/checkpoint.pt"}, "a cache is of one reference; set check"),
    ],
)
def test_what_cannot_be_folds_is_refused(folder, names, changes, message):
    changes = {name: folder / path for name, path in changes.items()}
    with pytest.raises(ValueError, match=message):
        cache_command(command(folder, *names, **changes))


def test_other_folds_replace_them_if_asked(folder, tmp_path):
    out = tmp_path / "cache"
    cache_command(command(folder, "a", "b", "both", out=out))
    cache_command(command(folder, "b", "a", out=out, overwrite=True))
    assert len(open_folds(out).references) == 2


def test_no_live_reference_takes_their_place(folder, tmp_path):
    selection = selecting(folder, reference_checkpoint=folder / "a" / "checkpoint.pt")
    with pytest.raises(ValueError, match=r"of 2 cross-fitted references, whose place no other can"):
        train(config_for(folder, tmp_path / "run", selection=selection))
