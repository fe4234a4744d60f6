"""What goes wrong between a DataLoader and its neighbours: shared memory, pinned memory, columns.

A full /dev/shm is a real one of 20 MB, mounted in a namespace of the test's own.
"""

import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torch.utils.data._utils.pin_memory import pin_memory

from jest_loader import ExampleScores, JestDataset, TopKSelector, UniformSelector
from jest_loader.ragged import RaggedBytes
from tests.helpers import numbered_batches

FULL = """
    import sys
    import torch
    from torch.utils.data import DataLoader, Dataset
    from jest_loader import JestDataset, UniformSelector

    class Rows(Dataset):
        def __len__(self):
            return 64

        def __getitem__(self, row):
            return torch.full((1_000_000,), float(row))

    torch.multiprocessing.set_sharing_strategy(sys.argv[1])
    loader = DataLoader(Rows(), 8, num_workers=2)
    dataset = JestDataset(loader, None, UniformSelector(), super_batch_size=16, sub_batch_size=8)
    for batch in dataset:
        print(batch.shape)
"""
IN_20_MB = "mount -t tmpfs -o size=20m tmpfs /dev/shm && exec "


def in_namespace(command: str) -> "subprocess.CompletedProcess[str]":
    unshare = ["unshare", "--map-root-user", "--mount", "sh", "-c", IN_20_MB + command]
    return subprocess.run(unshare, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["file_descriptor", "file_system"])
def test_a_full_dev_shm_is_an_error_that_says_so(strategy, tmp_path):
    if not shutil.which("unshare") or in_namespace("true").returncode:
        pytest.skip("needs a user namespace that may mount")
    script = tmp_path / "full.py"
    script.write_text(textwrap.dedent(FULL))
    result = in_namespace(f"{sys.executable} {script} {strategy}")
    assert result.returncode == 1
    assert "RuntimeError: Caught RuntimeError in DataLoader worker" in result.stderr
    assert "shared memory(shm)" in result.stderr
    assert "No space left on device" in result.stderr


class ByNumber:
    def score(self, super_batch):
        return ExampleScores(super_batch["number"].double())


def dataset(batches):
    return JestDataset(batches, ByNumber(), TopKSelector(), super_batch_size=8, sub_batch_size=4)


def ragged_batches():
    """Strings, byte strings and arrays of different lengths beside a tensor."""
    for batch in numbered_batches(4, 4):
        numbers = batch["number"].tolist()
        lengths = np.empty(4, dtype=object)
        lengths[:] = [np.arange(number) for number in numbers]
        encoded = RaggedBytes([bytes(number) for number in numbers])
        yield {
            **batch,
            "tokens": lengths,
            "jpg": encoded,
            "pair": (batch["number"], [*map(str, numbers)]),
        }


@pytest.mark.parametrize("pinned", [False, True])
@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true but no accelerator")
def test_ragged_columns_and_strings_pass_a_dataloader_around_the_dataset(pinned):
    loader = DataLoader(dataset([*ragged_batches()]), batch_size=None, pin_memory=pinned)
    batches = [*loader]
    assert [batch["number"].tolist() for batch in batches] == [[7, 6, 5, 4], [15, 14, 13, 12]]
    for batch in batches:
        numbers = batch["number"].tolist()
        assert batch["caption"] == [f"row {number}" for number in numbers]
        assert batch["pair"][1] == [str(number) for number in numbers]
        assert [len(tokens) for tokens in batch["tokens"]] == numbers
        assert [len(encoded) for encoded in batch["jpg"]] == numbers


def test_pinning_leaves_ragged_columns_and_strings_as_they_are():
    """What a DataLoader does to each batch where there is a GPU, here without one."""
    batch = next(iter(dataset([*ragged_batches()])))
    unpinned = {name: batch[name] for name in ("caption", "tokens", "jpg")}
    pinned = pin_memory(unpinned)
    assert pinned["caption"] == batch["caption"]
    assert pinned["jpg"] == batch["jpg"]
    assert isinstance(pinned["jpg"], RaggedBytes)
    assert pinned["tokens"] is batch["tokens"]


def test_tensors_that_are_on_a_device_already_are_refused_by_pinning():
    """A device of no memory stands for a GPU; tests/test_gpu.py has the real one."""
    source = [{"image": torch.zeros(4, 3, device="meta")} for _ in range(2)]
    data = JestDataset(source, None, UniformSelector(), super_batch_size=8, sub_batch_size=4)
    with pytest.raises(RuntimeError, match="only dense CPU tensors can be pinned"):
        pin_memory(next(iter(data)))
