"""A run that begins with ``-pre_train``: of how many steps it has statistics, and what a resume remembers of it."""

import json

from tests.helpers import run_training, weights_in

RUN = "-dataset digits -model mlp3 -neuron LIF -b 15 -train_fraction 0.02 -no_amp -device cpu".split()  # noqa: SIM905


def test_fewer_steps_and_a_resume_that_does_not_name_the_weights(tmp_path):
    run_training(*RUN, "-T", 3, "-epochs", 1, "-name", "a", cwd=tmp_path)
    latest = tmp_path / "logs" / "b" / "checkpoint_latest.pth"
    tuned = [*RUN, "-T", 2, "-name", "b"]
    run_training(*tuned, "-epochs", 1, "-pre_train", "logs/a/checkpoint_latest.pth", cwd=tmp_path)
    of_steps = [value for name, value in weights_in(latest).items() if name.endswith("running_mean_t")]
    assert of_steps
    assert {len(value) for value in of_steps} == {2}
    ended = run_training(*tuned, "-epochs", 2, "-resume", latest, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    config = json.loads(latest.with_name("config.json").read_text())
    assert config["pre_train"] == "logs/a/checkpoint_latest.pth"
