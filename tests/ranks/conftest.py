"""The source that loaders on several ranks read from."""

import numpy as np
import pytest


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    import zarr

    folder = tmp_path_factory.mktemp("zarr") / "data"
    group = zarr.open_group(folder, mode="w")
    group.create_array("number", data=np.arange(240), chunks=(7,))
    return folder
