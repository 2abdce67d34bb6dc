"""Files are written aside and renamed; what a run was made with names the processor."""

import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from utils.aside import keep_as, replacing, write_aside
from utils.cli import UsageError
from utils.environment import commit_of, environment, processor_name
from utils.output import written_aside


def test_a_file_is_the_old_one_until_it_is_whole(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with replacing(path) as file:
        file.write("ne")
        file.flush()
        assert path.read_text() == "old"
        file.write("w")
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["file"]


def test_a_block_that_fails_changes_nothing(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    text = torch.save  # what is no text fails in the middle of the block
    with pytest.raises(TypeError), replacing(path, previous=tmp_path / "before") as file:
        file.writelines(["new", text])
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_the_old_one_is_kept_under_another_name(tmp_path):
    path, before = tmp_path / "file", tmp_path / "before"
    for text in ("first", "second", "third"):
        with replacing(path, previous=before) as file:
            file.write(text)
    assert (path.read_text(), before.read_text()) == ("third", "second")
    write_aside(path, "fourth")
    assert before.read_text() == "second"
    keep_as(path, before)
    assert before.read_text() == "fourth"


def test_the_processor_is_named(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Some CPU @ 2.00GHz\nprocessor\t: 1\nmodel name\t: Some CPU\n")
    assert processor_name(cpuinfo) == "Some CPU @ 2.00GHz"
    assert processor_name(tmp_path / "none")  # the architecture, where nobody knows more
    assert environment(torch.device("cpu"))["processor"] == processor_name()


@pytest.mark.skipif(not shutil.which("git"), reason="git is not here")
def test_the_commit_is_the_project_s_own(tmp_path):
    def git(*words):
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        return subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "a.py").touch()
    assert commit_of(copy) == "unknown"
    git("init", "-q"), git("add", "."), git("commit", "-qm", "another's")
    assert commit_of(copy) == "unknown"  # the repository around it is not its own
    head = git("rev-parse", "HEAD").strip()
    git("tag", "v1")
    assert commit_of(tmp_path) == head
    (copy / "new.py").touch()
    assert commit_of(tmp_path) == head  # a file beside those of the commit, as a run folder
    (copy / "a.py").write_text("1")
    assert commit_of(tmp_path) == head + "-dirty"
    if os.geteuid() == 0:  # who alone can give a folder away
        os.chown(tmp_path / ".git", 65534, 65534), os.chown(tmp_path, 65534, 65534)
        assert commit_of(tmp_path) == head + "-dirty"  # another user's checkout


def test_results_may_go_to_the_top_of_all_folders():
    with suppress(UsageError), written_aside(Path("/")) as folder:  # where it may be written to
        assert folder.parent == Path("/")
    assert not list(Path("/").glob(".-????????"))
