"""Energy and operations against the paper's Tables 6 and 7."""

import json
from dataclasses import asdict, replace
from math import nan

import pytest
import torch

from accounts.account import as_json, draw_energy, energy_markdown, operations_markdown
from accounts.memory_energy import COUNT_FORMULAS, FORMULAS, access_energy, layer_counts, memory_energy
from accounts.operations import LayerShape, operations
from accounts.profile import profile_network
from figures.style import HATCHES, NEURON_STYLES
from models import build_model
from tests.golden import read_golden

PAPER = read_golden("paper_energy")
NETWORKS = {  # task → network, classes, channels, frame size
    "cifar10": ("spiking_resnet18", 10, 3, 32),
    "cifar100": ("spiking_resnet18", 100, 3, 32),
    "tinyimagenet": ("spiking_vgg13_bn", 200, 3, 64),
    "dvscifar": ("spiking_vgg11_bn", 10, 2, 48),
    "dvsgesture": ("spiking_vgg11_bn", 11, 2, 128),
}
TABLE_7_TOTALS = {  # mJ as printed, in print order ReLU, LIF, CLIF
    "cifar10": (111.6619, 34.5304, 64.8293),
    "cifar100": (111.6667, 25.3267, 54.6861),
    "tinyimagenet": (186.2279, 57.8778, 100.1968),
    "dvscifar": (None, 8.6343, 16.4876),
    "dvsgesture": (None, 21.0574, 45.1856),
}
TABLE_6 = [  # task, neuron, ACs and MACs in M as printed, decimals of the MACs, tolerance of the ACs
    ("cifar10", "relu", 0, 557.65, 2, 0),
    ("cifar10", "CLIF", 68.66, 5.12, 2, 0.01),
    ("cifar10", "LIF", 84.86, 2.89, 2, 0.01),
    ("cifar100", "relu", 0, 557.70, 2, 0),
    ("cifar100", "CLIF", 55.58, 5.16, 2, 0.01),
    ("cifar100", "LIF", 60.28, 2.93, 2, 0.01),
    ("tinyimagenet", "relu", 0, 922.56, 2, 0),
    ("tinyimagenet", "CLIF", 102.1, 282.83, 2, 0.01),
    ("tinyimagenet", "LIF", 135.25, 278.84, 2, 0.01),
    ("dvsgesture", "CLIF", 19.16, 1090, -1, 0.09),
    ("dvsgesture", "LIF", 25.09, 1080, -1, 0.09),
    ("dvscifar", "CLIF", 12.02, 153.87, 2, 0.01),
    ("dvscifar", "LIF", 14.65, 152.5, 2, 0.01),
]
CONV = LayerShape((4, 8, 8), (6, 4, 4), (3, 3), stride=2)
LINEAR = LayerShape((96,), (10,))


def chain(task):
    def sizes(v):
        return tuple(v) if isinstance(v, list) else (v,)

    return [
        LayerShape(
            sizes(s["input"]), sizes(s["output"]), tuple(s["kernel"][2:]) if s["kernel"] else None, s["stride"] or 1
        )
        for s in PAPER[task]["layers"]
    ]


def published(task, kind):
    T, rates = (1, None) if kind == "relu" else (PAPER[task]["T"], PAPER[task]["firing_rate"][kind])
    return memory_energy(chain(task), rates, T, kind)


@pytest.mark.parametrize("kind", ["relu", "LIF", "CLIF"])
@pytest.mark.parametrize("task", PAPER)
def test_table_7_is_met_part_by_part(task, kind):
    ours, table = published(task, kind).as_dict(), PAPER[task]["table7"][kind]
    assert ours.keys() == table.keys()
    for name, value in table.items():
        rounding = 0.5000001e-6 if name in FORMULAS else 0  # energies are given to 6 decimals
        assert ours[name] == pytest.approx(value, rel=1e-12, abs=rounding), name
    printed = TABLE_7_TOTALS[task][["relu", "LIF", "CLIF"].index(kind)]
    assert printed is None or round(ours["total_mJ"], 4) == printed


@pytest.mark.parametrize("shape", [CONV, LINEAR], ids=["conv", "linear"])
@pytest.mark.parametrize("kind", ["relu", "LIF", "CLIF"])
def test_count_formulas_say_what_is_counted(kind, shape):
    k_h, k_w = shape.kernel or (1, 1)
    names = {"inputs": shape.inputs, "outputs": shape.outputs, "C_in": shape.input[0], "C_out": shape.output[0]}
    names |= {"k_h": k_h, "k_w": k_w, "stride": shape.stride, "T": 6}
    names |= {"s_in": shape.inputs * 0.3, "s_out": shape.outputs * 0.2}
    formulas = COUNT_FORMULAS[kind, "conv" if shape.kernel else "linear"]
    by_formula = {name: eval(formula.replace("·", "*"), {}, names) for name, formula in formulas.items()}
    assert asdict(layer_counts(shape, 0.3, 0.2, 6, kind)) == pytest.approx(by_formula, rel=1e-12)


def test_energy_formulas_say_what_is_computed():
    row = published("cifar10", "CLIF")
    names = row.as_dict()
    for name, formula in FORMULAS.items():
        assert eval(formula.replace("·", "*"), {"E": access_energy}, names) == pytest.approx(
            row.energy[name], rel=1e-12
        )


def test_access_energy_at_the_steps():
    steps = {0: 0, 8192: 10, 8193: 10 / 24576, 32768: 10, 32769: 80 / 1015808, 1048576: 80, 1048577: 100, 1e9: 100}
    assert [access_energy(M) for M in steps] == pytest.approx(list(steps.values()))


def table_6_inputs(task, kind):
    """Every layer with what feeds it, from the published chain: shortcuts added, pools where the shape jumps."""
    shapes, is_resnet = chain(task), task.startswith("cifar")
    rates_of = PAPER[task]["firing_rate"].get(kind, [None] * len(shapes))
    layers, rates, pooled = [replace(shapes[0], bias=not is_resnet)], [None], []
    for i, shape in enumerate(shapes[1:], 1):
        rate = rates_of[i - 1]
        if shape.inputs != shapes[i - 1].outputs:
            pooled.append((shapes[i - 1].outputs, rate))
            rate = None
        layers.append(shape)
        rates.append(rate)
        if shape.stride == 2:
            layers.append(LayerShape(shape.input, shape.output, (1, 1), 2))
            rates.append(rate)
    neurons = sum(shape.outputs for shape in shapes[:-1])
    return layers, rates, {"neurons": neurons, "normalised": neurons, "pooled": pooled}


@pytest.mark.parametrize(("task", "kind", "acs", "macs", "decimals", "tolerance"), TABLE_6)
def test_table_6_macs_are_met_and_acs_come_close(task, kind, acs, macs, decimals, tolerance):
    layers, rates, rest = table_6_inputs(task, kind)
    ours = operations(layers, rates, 1, kind, **rest)
    assert round(ours.macs / 1e6, decimals) == macs
    assert ours.acs / 1e6 == pytest.approx(acs, rel=tolerance)
    assert ours.microjoules == pytest.approx((0.9 * ours.acs + 4.6 * ours.macs) / 1e6)
    assert sum(row.acs for row in ours.rows) == ours.acs


def test_time_multiplies_all_but_what_sees_a_still_image():
    rest = {"neurons": 96, "normalised": 96, "pooled": [(96, 0.5)]}
    one = operations([CONV, LINEAR], [None, 0.25], 1, "CLIF", **rest)
    events = operations([CONV, LINEAR], [None, 0.25], 6, "CLIF", **rest)
    image = operations([CONV, LINEAR], [None, 0.25], 6, "CLIF", static=[True, False], **rest)
    first = 96 * (4 * 9 + 1)
    assert one.macs == first + 2 * 96 + 4 * 96
    assert one.acs == 10 * 97 * 0.25 + 96 * 0.5 + 96
    assert (events.acs, events.macs) == (6 * one.acs, 6 * one.macs)
    assert (image.acs, image.macs) == (events.acs, events.macs - 5 * first)
    assert "still image: T = 1" in image.rows[1].formula
    assert "still image" not in events.rows[1].formula


@pytest.mark.parametrize(
    ("rates", "T", "kind", "message"),
    [
        ([0.2], 6, "GLIF", "unknown neuron 'GLIF'"),
        ([0.2], 0, "LIF", "T must be at least 1"),
        ([0.2, 0.1], 6, "LIF", "2 layers have 1 neuron layers between them, not 2"),
        ([20.0], 6, "LIF", "between 0 and 1, not 20.0"),
        ([nan], 6, "CLIF", "not nan"),
        (None, 6, "LIF", "they need them"),
        ([0.2], 1, "relu", "rates are for spiking neurons"),
    ],
)
def test_bad_arguments_are_named(rates, T, kind, message):
    with pytest.raises(ValueError, match=message):
        memory_energy([CONV, LINEAR], rates, T, kind)


def test_bad_shapes_and_rates_are_named():
    with pytest.raises(ValueError, match="linear layer takes"):
        LayerShape((4, 8, 8), (6, 4, 4))
    with pytest.raises(ValueError, match="must be positive"):
        LayerShape((4, 8, 8), (6, 4, 0), (3, 3))
    with pytest.raises(ValueError, match="2 layers need 2 input rates, not 1"):
        operations([CONV, LINEAR], [None], 1, "LIF", neurons=1, normalised=1)
    with pytest.raises(ValueError, match="2 layers have 1 rates in behind the first, not 2"):
        memory_energy([CONV, LINEAR], [0.1], 1, "LIF", [0.1, 0.1])
    with pytest.raises(ValueError, match="1 layers need to be static or not, each; 2 are"):
        operations([LINEAR], [None], 1, "LIF", neurons=1, normalised=1, static=[True, False])
    with pytest.raises(ValueError, match=r"not -0\.5"):
        operations([LINEAR], [None], 1, "LIF", neurons=1, normalised=1, pooled=[(4, -0.5)])


@pytest.mark.parametrize("task", NETWORKS)
def test_networks_have_the_layers_of_table_7(task):
    name, num_classes, C, size = NETWORKS[task]
    net = build_model(name, "relu", num_classes=num_classes, in_channels=C, input_size=size)
    seen = profile_network(net, [(torch.rand(1, 1, C, size, size), torch.zeros(1))])
    assert [replace(s.shape, bias=True) for s in seen.synapses if "shortcut" not in s.name] == chain(task)
    assert seen.memory_energy("relu") == published(task, "relu")
    layers, rates, rest = table_6_inputs(task, "relu")
    assert seen.operations("relu").macs == operations(layers, rates, 1, "relu", **rest).macs


def test_reports_hold_numbers_and_formulas(tmp_path):
    energy = {kind: published("cifar10", kind) for kind in ("relu", "LIF", "CLIF")}
    layers, rates, rest = table_6_inputs("cifar10", "LIF")
    ops = {"LIF": operations(layers, rates, 1, "LIF", **rest)}
    table, counts = energy_markdown(energy), operations_markdown(ops)
    assert "| CLIF | 55.5172 | 9.2529 | 0.0007 | 0.0389 | 19.5184 | 64.8293 |" in table
    assert all(formula in table for formula in FORMULAS.values())
    assert "| LIF | 1 | 84.57 | 2.89 | 89.40" in counts
    assert "ACs = Σ T·outputs·(fan_in + bias)·rate" in counts
    both = as_json(energy, ops)
    assert json.loads(json.dumps(both))["energy"]["LIF"]["total_mJ"] == energy["LIF"].energy["total_mJ"]
    assert both["operations"]["LIF"]["macs"] == ops["LIF"].macs

    draw_energy(energy, tmp_path / "energy")
    assert (tmp_path / "energy.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "energy.pdf").read_bytes()[:4] == b"%PDF"


def test_neurons_are_told_apart_without_colour():
    """By line, by marker and, as bars, by hatch."""
    for looks in ([style[key] for style in NEURON_STYLES.values()] for key in ("linestyle", "marker")):
        assert len(set(looks)) == len(NEURON_STYLES)
    assert HATCHES.keys() == NEURON_STYLES.keys()
    assert len(set(HATCHES.values())) == len(HATCHES)
