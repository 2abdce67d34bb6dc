"""That faults are noticed: the table of ``tests/faults.py`` fits the code, and some of it is tried."""

import pytest

from tests.faults import MUTATIONS, Mutation
from tests.mutations import ROOT, apply, check, copy_of_the_project

TRIED = (0,)  # by its place in the table: a neuron; each takes seconds, and -m long tries all


def test_there_are_twenty_different_ones():
    assert len({(mutation.file, mutation.old) for mutation in MUTATIONS}) == len(MUTATIONS) >= 20
    assert {mutation.file.split("/")[0] for mutation in MUTATIONS} == {
        *("neurons", "models", "data", "utils", "settings", "deploy")
    }


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_the_fault_still_has_its_place(mutation):
    assert (ROOT / mutation.file).read_text().count(mutation.old) == 1, f"move it along: {mutation.old!r}"
    assert mutation.new not in (mutation.old, "")
    assert mutation.test.split("::")[0].split()[0].startswith("tests/test_")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return copy_of_the_project(tmp_path_factory.mktemp("mutations"))


@pytest.mark.slow
@pytest.mark.parametrize("mutation", [MUTATIONS[place] for place in TRIED], ids=lambda mutation: mutation.name)
def test_the_fault_is_caught(tree, mutation):
    is_caught, seen = check(mutation, tree)
    assert is_caught, seen


@pytest.mark.slow
def test_a_fault_that_no_test_sees_is_reported(tree):
    harmless = Mutation(
        "none", "utils/loss.py", "T, _, K = logits.shape", "T, _,  K = logits.shape", "tests/test_engine.py"
    )
    is_caught, seen = check(harmless, tree)
    assert not is_caught
    assert "SURVIVED" in seen
    with pytest.raises(ValueError, match="0 times"):
        apply(Mutation("gone", "utils/loss.py", "no such text", "", ""), tree)


@pytest.mark.long
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_every_fault_is_caught(tree, mutation):
    is_caught, seen = check(mutation, tree)
    assert is_caught, seen
