"""Each fenced block of README.md and the guides does what it says; :mod:`tests.snippets` says how that is seen to.

``SNIPPETS=full`` in the environment shortens no training and compares measured numbers too.
"""

import os

import pytest

from reproduction.commands import TRAIN, CommandError, parsed
from tests.helpers import ROOT
from tests.snippets import Block, blocks_of, check_bash, check_output, check_python, make_folder, run_block
from tests.test_contributing import EXAMPLES

PAGES = ("README.md", "CONTRIBUTING.md", "recipes/README.md", *sorted(f"docs/{p.name}" for p in ROOT.glob("docs/*.md")))
BLOCKS = [block for page in PAGES for block in blocks_of(page, (ROOT / page).read_text())]
CHECKS = {"bash": check_bash, "python": check_python}
READ = {"mermaid", "bibtex"}  # languages that nobody runs; tests/test_docs.py checks the diagram
FULL = os.environ.get("SNIPPETS") == "full"


def is_done_elsewhere(block: Block) -> bool:
    """Whether it belongs to a worked example, which tests/test_contributing.py does from its first file to its run."""
    return block.page == "CONTRIBUTING.md" and any(block.text in example for example in EXAMPLES.values())


OURS = [block for block in BLOCKS if block.language not in READ and not is_done_elsewhere(block)]
RUN = [block for block in OURS if block.language in CHECKS and "parsed only" not in block.markers]


@pytest.mark.parametrize("block", OURS, ids=str)
def test_every_block_is_of_a_kind_that_is_checked(block):
    if block.language in CHECKS:
        assert "output" not in block.markers
        script, *options = block.markers.get("shortened", TRAIN).split()
        parsed(script, options if script == TRAIN else ["-resume", "x", *options])
        assert not {"parsed only", "shortened"} <= block.markers.keys()
    else:
        assert "output" in block.markers, f"{block}: what is it? <!-- output: … -->, bash or python"


@pytest.mark.parametrize("block", [b for b in OURS if b.language == "bash" or "parsed only" in b.markers], ids=str)
def test_block_is_read_by_the_parsers(block):
    CHECKS[block.language](block.text)


@pytest.mark.first
@pytest.mark.slow
def test_every_block_runs_as_it_stands(tmp_path):
    """All pages in one folder, README first: what a block leaves behind is there for those below it."""
    tree, said, failures = make_folder(tmp_path, FULL), "", []
    for block in OURS:
        try:
            if block in RUN:
                said = run_block(block, tree, FULL)
            elif "output" in block.markers:
                check_output(block, said, FULL)
        except AssertionError as failure:
            failures.append(f"{block}: {failure}")
    assert not failures, "\n\n".join(failures)


def block(text, **markers):
    return Block("page.md", 1, "bash", text, markers)


def test_blocks_are_found_with_what_stands_above_them():
    page = "a\n\n<!-- shortened: -T 2 -->\n<!-- command: main -->\n```bash\nls\n```\n```\nout\n```\n"
    first, second = blocks_of("page.md", page)
    assert first == Block("page.md", 6, "bash", "ls\n", {"shortened": "-T 2", "command": "main"})
    assert second == Block("page.md", 9, "", "out\n", {})
    with pytest.raises(ValueError, match=r"page.md:3: an unknown comment"):
        list(blocks_of("page.md", "<!-- parse only: typo -->\n```bash\nls\n```\n"))


@pytest.mark.parametrize(
    "text",
    [
        "if true; then",
        "python train_BPTT.py -neuron CLIFF",
        "cd x && .venv/bin/python train_BPTT.py -epoch 3x",
        "torchrun --nproc_per_node=4 train_BPTT.py -bn what",
        "python inference.py -calibrate",
        "python reproduce.py shows table1",
        "python reproduce.py show table99",
        "python -m figures.nothing",
        "python -m figures.gradient_flow -what",
        "python there_is_none.py",
    ],
)
def test_a_command_that_is_wrong_is_found(text):
    with pytest.raises((AssertionError, CommandError, SystemExit)):
        check_bash(text)


@pytest.mark.parametrize("text", ["x = (", "from neurons import Clif", "import nothing_of_that_name"])
def test_code_that_is_wrong_is_found(text):
    with pytest.raises((SyntaxError, ImportError)):
        check_python(text)


def test_a_block_that_fails_is_found_and_shortening_reaches_training_alone(tmp_path):
    tree = tmp_path / "tree"
    (tree / ".venv").mkdir(parents=True)
    with pytest.raises(AssertionError, match="ended with 3"):
        run_block(block("echo before\n(exit 3)\necho after"), tree, full=False)
    made = make_folder(tmp_path, full=False)
    (made / "train_BPTT.py").write_text("import sys; print('trained', *sys.argv[1:])")
    text = "python3 -m venv x && .venv/bin/pip install y\nfor T in 1 2; do python train_BPTT.py -T $T; done\n"
    text += "python -c 'import sys; print(len(sys.argv))'"
    shorter = block(text, shortened="train_BPTT.py -epochs 1")
    assert run_block(shorter, made, full=False) == "trained -T 1 -epochs 1\ntrained -T 2 -epochs 1\n1\n"
    assert run_block(shorter, made, full=True) == "trained -T 1\ntrained -T 2\n1\n"


def test_output_is_compared():
    wanted = block(
        "run as CLIF, T = 4\ntest accuracy 99.44%, loss 0.2166 (359 samples)\n", output="accuracy within 3 points"
    )
    for said in ("run as CLIF, T = 2\ntest accuracy 99.44%, loss 0.2166 (359 samples)",
                 "run as CLIF, T = 4\ntest accuracy 99.44%, loss 0.2166 (360 samples)",
                 "test accuracy 99.44%, loss 0.2166 (359 samples)\nrun as CLIF, T = 4"):  # fmt: skip
        with pytest.raises(AssertionError, match="not said"):
            check_output(wanted, said, full=True)
    close = "note\nrun as CLIF, T = 4\ntest accuracy 97.77%, loss 0.3 (359 samples)"
    check_output(wanted, close, full=True)
    far = close.replace("97.77", "90.00")
    check_output(wanted, far, full=False)
    with pytest.raises(AssertionError, match="said: test accuracy 90"):
        check_output(wanted, far, full=True)
