"""Files that appear whole or not at all."""

import pytest

from jest_loader.files import replacing


@pytest.mark.parametrize("has_scratch", [True, False])
def test_a_file_appears_whole_or_stays_as_it_was(tmp_path, has_scratch):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "out").mkdir()
    path, scratch = tmp_path / "out" / "values", tmp_path / "scratch"
    for content, error in ((b"old", False), (b"half", True), (b"new", False)):
        before = path.read_bytes() if path.exists() else None
        try:
            with replacing(path, scratch=scratch if has_scratch else None) as part:
                part.write_bytes(content)
                assert part.parent == (scratch if has_scratch else path.parent)
                assert (path.read_bytes() if path.exists() else None) == before
                if error:
                    raise RuntimeError
        except RuntimeError:
            assert path.read_bytes() == before
        else:
            assert path.read_bytes() == content
        assert [file.name for file in path.parent.iterdir()] == ["values"]
        assert not list(scratch.iterdir())
