"""What the heading of a run says of settings that do less than they seem to."""

import pytest

from data import DATASETS, OF_SOME, DataOptions, builder, describe
from settings.command_line import notes_of, read_options, runs_of


def notes(words):
    (settings,) = runs_of(read_options(words.split()))
    return list(notes_of(settings))


@pytest.mark.parametrize(
    ("words", "note"),
    [
        ("-opt Adam -momentum 0.8", "-momentum 0.8 changes nothing: -opt Adam has none of its own to set"),
        ("-lr_scheduler StepLR -T_max 20", "-T_max 20 changes nothing: -lr_scheduler StepLR has no use for it"),
        ("-lr_scheduler StepLR -warmup_epochs 5",
         "-warmup_epochs 5 changes nothing: -lr_scheduler StepLR has no use for it"),
        ("-step_size 30", "-step_size 30 changes nothing: -lr_scheduler CosALR has no use for it"),
        ("-warmup_lr 0.001", "-warmup_lr 0.001 changes nothing: there are no -warmup_epochs"),
        ("-neuron GLIF -tau 3", "-tau 3.0 changes nothing: GLIF has no use for it"),
        ("-neuron relu -surrogate atan", "-surrogate atan changes nothing: relu has no use for it"),
        ("-dataset digits -cutupmix_auto", "-cutupmix_auto changes nothing: digits has no use for it"),
        ("-event_split first", "-event_split first changes nothing: cifar10 has no use for it"),
        ("-dataset DVSCIFAR10-pt -event_split first",
         "-event_split first changes nothing: DVSCIFAR10-pt has no use for it"),
        ("-model spike_driven_transformer_2_512 -drop_rate 0.3",
         "-drop_rate 0.3 changes nothing: spike_driven_transformer_2_512 has no dropout"),
        ("-epochs 1024 -T_max 64", "-epochs 1024 goes on after -T_max 64: the learning rate rises again"),
        ("-T_max 10 -cooldown_epochs 2 -epochs 14",
         "-epochs 14 goes on after -T_max 10 and -cooldown_epochs 2: the learning rate rises again"),
        ("-epochs 5", "-epochs 5 ends before -T_max 300: the learning rate does not reach its lowest"),
    ],
)  # fmt: skip
def test_a_setting_that_changes_nothing_is_told(words, note):
    assert notes(words) == [note]


@pytest.mark.parametrize(
    "words",
    [
        "",
        "-opt Adam -momentum 0.9",
        "-momentum 0.8 -warmup_epochs 5 -warmup_lr 0.001",
        "-lr_scheduler StepLR -step_size 30 -epochs 5",
        "-neuron PLIF -tau 3 -surrogate atan -alpha 2",
        "-neuron LIF -switch_neuron 3:CLIF -tau 3",
        "-cutupmix_auto -drop_rate 0.3",
        "-dataset DVSCIFAR10 -event_split first -epochs 301",
        "-T_max 10 -cooldown_epochs 2 -epochs 13",
    ],
)
def test_nothing_is_told_of_a_setting_that_has_its_effect(words):
    assert notes(words) == []


@pytest.mark.parametrize("name", DATASETS)
def test_a_data_set_reads_what_it_says(tmp_path, name):
    """Notes and refusals of options that change nothing rest on it."""
    read = set()

    class Watched(DataOptions):
        def __getattribute__(self, option):
            read.add(option)
            return super().__getattribute__(option)

    if describe(name).write:
        describe(name).write(tmp_path, 2)
    builder(name)(Watched(tmp_path, T=2, download=False))
    assert read & {*OF_SOME} == {*describe(name).reads}
