"""Whatever goes wrong while writing, the place holds what it held before, or all of what is new."""

import json
import os
import sys
from pathlib import Path

import pytest
from cases import check_error

from alphabar.denoise import files
from alphabar.denoise.files import check_writable, finish, held, remove_drafts, replaced_files, whole_file
from alphabar.errors import CheckpointError

LIST = "list.json"


def write(place, **contents):
    with replaced_files(place, LIST) as draft:
        for name, text in contents.items():
            path = draft / name.replace("_", "/")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)


def contents(place):
    finish(place, LIST)
    named = {path.relative_to(place).as_posix(): path for path in place.rglob("*") if path.is_file()}
    return {name: path.read_text() for name, path in sorted(named.items()) if name != LIST}


def test_a_file_that_failed_leaves_the_old_one_and_nothing_else(tmp_path):
    place = tmp_path / "deep" / "x.txt"
    with whole_file(place) as draft:
        draft.write_text("old")
    with pytest.raises(OSError, match="disk"), whole_file(place) as draft:
        draft.write_text("half")
        raise OSError("disk full")
    assert place.read_text() == "old"
    assert list(place.parent.iterdir()) == [place]


def test_files_that_failed_leave_the_old_ones_and_nothing_else(tmp_path):
    place = tmp_path / "run"
    for text in ("first", "second"):
        write(place, a=text)
    with pytest.raises(KeyboardInterrupt), replaced_files(place, LIST) as draft:
        (draft / "b").write_text("half")
        raise KeyboardInterrupt
    assert contents(place) == {"a": "second"}
    assert sorted(path.name for path in place.iterdir()) == ["a", LIST]
    with pytest.raises(KeyboardInterrupt), replaced_files(tmp_path / "new", LIST):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == [place]


def test_own_files_without_a_successor_go_and_all_others_stay(tmp_path):
    write(tmp_path, a="1", sub_b="2", sub_c="3", lone_d="4", changed="5")
    (tmp_path / "sub" / "mine").write_text("precious")
    (tmp_path / "mine").write_text("precious too")
    (tmp_path / "changed").write_text("by hand")
    write(tmp_path, a="new", sub_b="new")
    expected = {"a": "new", "changed": "by hand", "mine": "precious too", "sub/b": "new"}
    assert contents(tmp_path) == {**expected, "sub/mine": "precious"}
    assert not (tmp_path / "lone").exists()


def test_a_file_of_others_is_never_written_over(tmp_path):
    write(tmp_path, a="1")
    (tmp_path / "b").write_text("precious")
    check_error(lambda: write(tmp_path, a="2", b="3"), CheckpointError, str(tmp_path / "b"), "move it")
    assert contents(tmp_path) == {"a": "1", "b": "precious"}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "sub").symlink_to(elsewhere)
    check_error(lambda: write(tmp_path, sub_c="1"), CheckpointError, "is a link")


@pytest.mark.parametrize("name", ["../mine", "/etc/mine", "sub/../../mine", ""])
def test_a_list_that_leads_out_of_the_folder_is_refused(name, tmp_path):
    place = tmp_path / "run"
    write(place, a="1")
    facts = {"size": 8, "sha256": files.digest(place / "a")}
    (place / LIST).write_text(json.dumps({"files": {name: facts}}))
    check_error(lambda: write(place, a="2"), CheckpointError, "cannot be its own")


def test_two_processes_do_not_write_one_place(tmp_path):
    with replaced_files(tmp_path, LIST) as draft:
        (draft / "a").write_text("1")
        check_error(lambda: write(tmp_path, a="2"), CheckpointError, "another process")
    assert contents(tmp_path) == {"a": "1"}


CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree")


def killed_at(step, work):
    """Do the work in a process of its own that dies before change number ``step``; return whether it did."""
    child = os.fork()
    if not child:
        left = step

        def count(event, arguments):
            nonlocal left
            if event in CHANGES or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
                left -= 1
                if left < 0:
                    os._exit(9)

        sys.addaudithook(count)
        work()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, 9)
    return code == 9


@pytest.mark.parametrize("old", [{}, {"a": "old", "sub_b": "old", "sub_gone": "old", "gone": "old"}])
def test_killed_before_any_change_the_place_holds_the_old_files_or_the_new_ones(old, tmp_path):
    new, seen, step = {"a": "new", "sub_b": "new", "more": "new"}, [], 0
    before, after = ({k.replace("_", "/"): v for k, v in sorted(c.items())} for c in (old, new))
    while True:
        place = tmp_path / str(step)
        place.mkdir()
        (place / "mine").write_text("precious")
        if old:
            write(place, **old)
        killed = killed_at(step, lambda place=place: write(place, **new))
        found = contents(place)
        assert found.pop("mine") == "precious"
        visible = {name: text for name, text in found.items() if not name.startswith(".")}
        assert visible in (before, after)
        seen.append(visible == after)
        write(place, **new)  # and it can be written again
        found = {**after, "mine": "precious"}
        assert contents(place) == found
        if not killed:
            break
        step += 1
    assert step > 10
    assert seen == sorted(seen)
    assert seen[0] is False
    assert seen[-2] is True  # killed after the commit, before the end


def test_a_file_of_a_killed_process_is_whole_or_not_there_and_its_draft_can_be_removed(tmp_path):
    def work():
        with whole_file(tmp_path / "x.txt") as draft:
            draft.write_text("new")

    (tmp_path / "mine").write_text("precious")
    step = left = 0
    while killed_at(step, work):
        left += any(path.name.startswith(files.FILE_DRAFT) for path in tmp_path.iterdir())
        remove_drafts(tmp_path)
        found = {path.name: path.read_text() for path in tmp_path.iterdir()}
        assert found in ({"mine": "precious"}, {"mine": "precious", "x.txt": "new"})
        (tmp_path / "x.txt").unlink(missing_ok=True)
        step += 1
    assert left > 1


def test_a_held_folder_is_refused_to_others_and_free_afterwards(tmp_path):
    with held(tmp_path):
        check_error(lambda: write(tmp_path, a="1"), CheckpointError, "being written by another process")
    write(tmp_path, a="1")
    assert contents(tmp_path) == {"a": "1"}


def test_a_place_that_cannot_be_written_is_named_and_left_as_it_was(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file" / "run", tmp_path / "file"):
        check_error(
            lambda place=place: check_writable(place), CheckpointError, str(place), "cannot be written"
        )
    check_error(lambda: check_writable(tmp_path / "a" / "b", 2**60), CheckpointError, "MiB free", "make room")
    check_writable(tmp_path / "a" / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    check_error(lambda: check_writable(tmp_path / "run"), CheckpointError, "No space left on device")
    with pytest.raises(OSError, match="No space"):
        write(tmp_path / "run", a="1")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert Path.cwd().exists()
