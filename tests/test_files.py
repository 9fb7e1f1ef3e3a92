"""Whatever goes wrong while writing, the place holds what it held before."""

import pytest

from alphabar.training.files import whole_file, whole_folder


def test_a_file_that_failed_leaves_the_old_one_and_nothing_else(tmp_path):
    place = tmp_path / "deep" / "x.txt"
    with whole_file(place) as draft:
        draft.write_text("old")
    with pytest.raises(OSError, match="disk"), whole_file(place) as draft:
        draft.write_text("half")
        raise OSError("disk full")
    assert place.read_text() == "old"
    assert list(place.parent.iterdir()) == [place]


def test_a_folder_that_failed_leaves_the_old_one_and_nothing_else(tmp_path):
    place = tmp_path / "run"
    for text in ("first", "second"):
        with whole_folder(place) as draft:
            (draft / "a").write_text(text)
    with pytest.raises(KeyboardInterrupt), whole_folder(place) as draft:
        (draft / "b").write_text("half")
        raise KeyboardInterrupt
    assert [path.read_text() for path in place.iterdir()] == ["second"]
    assert list(tmp_path.iterdir()) == [place]
