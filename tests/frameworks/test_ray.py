"""Ray: a run goes on exactly where a worker was killed, Ray Data is read, actors build a cache."""

import json
import logging
from itertools import chain
from pathlib import Path

import pytest
import torch

from jest_loader import CachedReference, ColumnReference, FrozenReference
from jest_loader.reference_cache import build, model_fingerprint, verify
from tests.frameworks.toy import TwoTower, assert_no_row_is_shared, dataset, pairs

ray = pytest.importorskip("ray")
from ray.train import FailureConfig, RunConfig, ScalingConfig  # noqa: E402
from ray.train.torch import TorchTrainer  # noqa: E402

from tests.frameworks.on_ray import (  # noqa: E402
    MADE_FROM,
    NUM_EPOCHS,
    NUM_PARTS,
    STEPS,
    BuildsParts,
    Embeds,
    Reference,
    Rows,
    read_what_ray_deals,
    train,
)

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def cluster():
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ray.init(
        num_cpus=3,  # two workers, and one for Ray Data
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=200_000_000,
        runtime_env={"env_vars": environment},
    )
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    yield
    ray.shutdown()


def fit(loop, folder, **options):
    """Run a loop on two workers; what each wrote into its file."""
    trainer = TorchTrainer(
        loop,
        train_loop_config={"folder": str(folder), **options.pop("config", {})},
        scaling_config=ScalingConfig(num_workers=2),
        run_config=RunConfig(
            storage_path=str(folder), name="run", failure_config=FailureConfig(max_failures=2)
        ),
        **options,
    )
    trainer.fit()
    files = [folder / f"rank{rank}.jsonl" for rank in (0, 1)]
    return [[json.loads(line) for line in file.read_text().splitlines()] for file in files]


def test_a_run_whose_worker_is_killed_goes_on_exactly(tmp_path):
    folders = [tmp_path / "whole", tmp_path / "killed"]
    for folder in folders:
        folder.mkdir()
    whole = fit(train, folders[0], config={"saved": [], "killed": []})
    # The first checkpoint is of an epoch's end, the second of the next one's middle.
    ended = fit(train, folders[1], config={"saved": [4, 6], "killed": [5, 8]})
    assert [row[0] for row in whole[0]] == list(range(1, NUM_EPOCHS * STEPS + 1))
    assert_no_row_is_shared(*([row[1] for row in rank] for rank in whole))
    # The step before the second kill is the only one that both workers ran twice.
    for rank in (0, 1):
        assert [row[0] for row in ended[rank]] == [*range(1, 8), *range(7, NUM_EPOCHS * STEPS + 1)]
        expected = {row[0]: row for row in whole[rank]}
        assert all(row == expected[row[0]] for row in ended[rank])
    assert {file.name for file in folders[1].glob("killed*")} == {"killed5", "killed8"}


def test_what_ray_deals_to_workers_trains_and_is_not_resumed(tmp_path):
    rows = ray.data.from_items([to_numpy(row) for row in pairs()], override_num_blocks=4)
    ranks = fit(read_what_ray_deals, tmp_path, datasets={"train": rows})
    for (first, error), (second, _) in zip(*ranks, strict=True):
        for one, two in zip(first, second, strict=True):
            assert len(one) == STEPS
            assert_no_row_is_shared(one, two)
        assert "itself rather than what a framework made of it" in error
    (prepared, _), _ = ranks[0]
    assert prepared[0] != prepared[1]


def to_numpy(row):
    return {name: value.numpy() for name, value in row.items()}


@pytest.mark.parametrize("shuffled", [False, True])
def test_data_of_ray_are_a_source_with_a_length_that_is_told(shuffled):
    rows = ray.data.from_items([to_numpy(row) for row in pairs()], override_num_blocks=2)
    if shuffled:
        rows = rows.random_shuffle(seed=ray.data.RandomSeedConfig(3, reseed_after_execution=True))
    source = rows.iter_torch_batches(batch_size=8)
    read = [[batch["id"].tolist() for batch in source] for _ in range(2)]
    assert (read[0] != read[1]) == shuffled
    assert all(sorted(chain(*epoch)) == list(range(176)) for epoch in read)
    with pytest.raises(TypeError, match=r"say Options\(batch_size=..., num_examples=...\)"):
        len(dataset(TwoTower(1), source))
    data = dataset(TwoTower(1), source, batch_size=8, num_examples=rows.count())
    assert len(data) == len(list(data)) == 4
    with pytest.raises(
        ValueError, match="can be neither saved nor restored, since it has no state"
    ):
        data.state_dict()


def content(path):
    return {file.relative_to(path): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.fixture
def whole(tmp_path):
    """A cache that one process has built."""
    build(
        tmp_path / "whole", Rows(), FrozenReference(Reference()), identity=MADE_FROM, chunk_rows=16
    )
    return tmp_path / "whole"


def test_actors_build_a_cache_and_one_of_them_is_killed(whole, tmp_path):
    cache, mark = tmp_path / "cache", tmp_path / "mark"
    parts = ray.data.range(NUM_PARTS, override_num_blocks=NUM_PARTS)
    parts.map_batches(
        BuildsParts, fn_constructor_args=(cache, mark), batch_size=1, concurrency=2
    ).materialize()
    assert mark.exists()
    assert not (cache / "zarr.json").exists()

    class Known(Reference):
        def embed(self, batch):
            raise AssertionError("the actors have embedded all")

    Known.__name__ = Known.__qualname__ = "Reference"
    manifest = build(cache, Rows(), FrozenReference(Known()), identity=MADE_FROM, chunk_rows=16)
    assert (manifest.num_rows, manifest.num_missing) == (176, 2)
    assert content(cache) == content(whole)
    verify(cache, expect={**MADE_FROM, "data": "pairs", "model": model_fingerprint(Reference())})


class Stopped(Exception):
    pass


def test_embeddings_of_ray_data_flow_into_a_cache(whole, tmp_path):
    rows = [{**to_numpy(row), "sample_id": int(row["id"])} for row in pairs()]
    data = ray.data.from_items(rows, override_num_blocks=4)
    found = data.map_batches(
        Embeds, fn_constructor_args=(tmp_path / "mark",), batch_size=8, concurrency=1
    ).iter_batches(batch_size=32)
    reference = ColumnReference(logit_scale=10.0, logit_bias=-5.0)
    identity = {**MADE_FROM, "model": model_fingerprint(Reference())}

    def stopping():
        for number, batch in enumerate(found):
            if number == 3:
                raise Stopped
            yield batch

    class Stops:
        def __iter__(self):
            return stopping()

    options = {"identity": identity, "chunk_rows": 16}
    with pytest.raises(Stopped):
        build(tmp_path / "cache", Stops(), reference, **options)
    assert len(list((tmp_path / "cache/building").glob("0*.json"))) == 4
    manifest = build(tmp_path / "cache", found, reference, **options)
    assert (tmp_path / "mark").exists()
    assert (manifest.num_rows, manifest.num_missing) == (176, 2)
    caches = [
        CachedReference.open(path, missing="skip", expect=identity)
        for path in (tmp_path / "cache", whole)
    ]
    for batch in Rows():
        one, other = (cache.embed(batch) for cache in caches)
        torch.testing.assert_close(one.image, other.image, rtol=0, atol=1e-3, equal_nan=True)
        torch.testing.assert_close(one.text, other.text, rtol=0, atol=1e-3, equal_nan=True)
        assert one.skipped.keys() == other.skipped.keys()
