"""timm's loaders as sources, from a folder of pictures, by the table of docs/sources.md."""

import pytest
import torch
from PIL import Image

from tests.frameworks.sources import LEFT_OVER, WHOLE, Measuring, check, check_ranks

timm = pytest.importorskip("timm.data")
pytestmark = pytest.mark.filterwarnings("ignore")  # It leaves pictures open.

LOADERS = {
    "timm `create_loader(data, size, n, is_training=True)`": {},
    "timm, `use_prefetcher=False`": {"use_prefetcher": False},
    "timm, `use_multi_epochs_loader=True`": {"use_multi_epochs_loader": True},
    "timm, `distributed=True`": {"distributed": True},
    "timm, `distributed=True, num_aug_repeats=3`": {"distributed": True, "num_aug_repeats": 3},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of pictures by their number, each of one grey: its own number."""
    folders = {n: tmp_path_factory.mktemp(f"pictures{n}") for n in (WHOLE, LEFT_OVER)}
    for num_rows, folder in folders.items():
        (folder / "train/any").mkdir(parents=True)
        for row in range(num_rows):
            Image.new("RGB", (8, 8), (row, row, row)).save(folder / f"train/any/{row:03d}.png")
    return folders


def loader(folder, options):
    data = timm.create_dataset("", str(folder), split="train")
    return timm.create_loader(
        data, (3, 8, 8), 10, is_training=True, no_aug=True, num_workers=0,
        mean=(0, 0, 0), std=(1, 1, 1), device=torch.device("cpu"), **options,
    )  # fmt: skip


def number(batch):
    images, _ = batch
    return (255 * images[:, 0, 0, 0]).round().int()


@pytest.fixture
def group(tmp_path):
    """timm's samplers ask for the ranks."""
    torch.distributed.init_process_group(
        "gloo", init_method=(tmp_path / "store").as_uri(), rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("name", LOADERS)
def test_a_loader_does_what_the_page_says(name, folders, group):
    check(name, lambda num_rows: loader(folders[num_rows], LOADERS[name]), number)


@pytest.mark.slow
@pytest.mark.parametrize("name", LOADERS)
def test_two_ranks_do_what_the_page_says(name, folders):
    check_ranks(name, loader, number, folders[WHOLE], LOADERS[name])


@pytest.mark.parametrize("options", [{}, {"use_multi_epochs_loader": True}], ids=str)
def test_each_epoch_has_every_picture_once(options, folders):
    data = Measuring(lambda num_rows: loader(folders[num_rows], options), number)
    dataset = data.dataset()
    for _ in range(2):
        assert sorted(row for rows in data.passed(dataset) for row in rows) == [*range(WHOLE)]
