"""The faults that python -m tests.mutations puts into the code, and the test that each must turn red."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """A fault.

    Args:
        name: what is wrong, in a few words.
        file: where; ``old`` stands in it exactly once, and ``new`` takes its place.
        test: what pytest is given, words apart.
    """

    name: str
    file: str
    old: str
    new: str
    test: str


MUTATIONS = (
    Mutation(
        "clif: the reset is not deepened by m",
        "neurons/clif.py",
        "u = u - s * (v_threshold + m.sigmoid())",
        "u = u - s * v_threshold",
        "tests/test_neurons.py::test_matches_literal_trace -k CLIF",
    ),
    Mutation(
        "lif: a hard reset leaks to 0, not to its value",
        "neurons/lif.py",
        "else v_reset + gamma * (u - v_reset) + c",
        "else gamma * u + c",
        "tests/test_neurons.py::test_matches_literal_trace -k LIF-rectangle",
    ),
    Mutation(
        "plif: the sign of w's initial value",
        "neurons/plif.py",
        "-math.log(neuron.tau - 1)",
        "math.log(neuron.tau - 1)",
        "tests/test_neurons.py::test_matches_literal_trace -k PLIF",
    ),
    Mutation(
        "spike: u = V_th does not fire",
        "neurons/surrogate.py",
        "return (x >= 0).to(x.dtype)",
        "return (x > 0).to(x.dtype)",
        "tests/test_neurons.py -k zero_fires or at_the_threshold_fires",
    ),
    Mutation(
        "surrogate: a rectangle twice as wide",
        "neurons/surrogate.py",
        "(x.abs() <= alpha / 2)",
        "(x.abs() <= alpha)",
        "tests/test_neurons.py::test_surrogate_derivative_integrates_to_one",
    ),
    Mutation(
        "derive: a state's gradient is taken from the wrong output",
        "neurons/ops/derive.py",
        'zip(outputs, gradients, ("", *states), strict=True)',
        'zip(outputs, gradients[::-1], ("", *states), strict=True)',
        "tests/test_derive.py::test_graphs_are_the_step_and_its_derivative",
    ),
    Mutation(
        "frame.c: the way back reads what was saved of the next step",
        "neurons/ops/frame.c",
        "const float *kept = saved + t * SAVED * BLOCK;",
        "const float *kept = saved + (t + 1 < T ? t + 1 : t) * SAVED * BLOCK;",
        "tests/test_backends.py::test_backend_matches_steps_under_autograd -k rectangle-c",
    ),
    Mutation(
        "states: one of another shape is let through",
        "neurons/ops/dynamics.py",
        "if state.shape != like.shape or state.dtype",
        "if state.dtype",
        "tests/test_states.py::test_a_sequence_of_another_shape_is_refused_until_reset -k reference",
    ),
    Mutation(
        "lif: an infinite potential is not reset",
        "neurons/lif.py",
        "u.clamp(max=1e18)",
        "u",
        "tests/test_finite.py::test_a_hard_reset_takes_an_infinite_potential_back -k steps",
    ),
    Mutation(
        "fused norm: the mean of the gradient is not taken out",
        "neurons/ops/norm.c",
        "B = -scale * g / n - A * mean;",
        "B = -A * mean;",
        "tests/test_backends.py::test_norm_and_fire_matches_norm_then_fire -k CLIF",
    ),
    Mutation(
        "norm: the running variance is the biased one",
        "models/batch_norm.py",
        "self._update(mean, var, n / (n - 1), backend)",
        "self._update(mean, var, 1.0, backend)",
        "tests/test_backends.py::test_norm_and_fire_matches_norm_then_fire -k CLIF",
    ),
    Mutation(
        "norm: a static image updates running statistics once, not T times",
        "models/batch_norm.py",
        "self._update(torch.stack(means).expand(T, -1), torch.stack(variances).expand(T, -1))",
        "self._update(torch.stack(means), torch.stack(variances))",
        "tests/test_models.py::test_static_image_is_the_same_image_at_every_step -k snn5_noAP",
    ),
    Mutation(
        "network: state is kept from one call to the next",
        "models/layers.py",
        "self.reset_states()\n        logits = self.run",
        "logits = self.run",
        "tests/test_streaming.py",
    ),
    Mutation(
        "resnet: the shortcut carries the block's input, not the first neuron's spikes",
        "models/resnet.py",
        "self.relu2, y)))\n        return y + self.shortcut(spike)",
        "self.relu2, y)))\n        return y + self.shortcut(x)",
        "tests/test_golden.py::test_network_matches_golden -k resnet18-CLIF",
    ),
    Mutation(
        "resnet: a bottleneck's stride stands in its 3×3 convolution",
        "models/resnet.py",
        'Conv2d(in_channels, channels, 1, stride, step_mode="m")\n        self.bn2 = parts.norm(channels)\n'
        '        self.conv2 = Conv2d(channels, channels, 3, 1, 1, step_mode="m")\n        self.bn3',
        'Conv2d(in_channels, channels, 1, step_mode="m")\n        self.bn2 = parts.norm(channels)\n'
        '        self.conv2 = Conv2d(channels, channels, 3, stride, 1, step_mode="m")\n        self.bn3',
        "tests/test_golden.py::test_network_matches_golden -k resnet50-LIF-T2-m",
    ),
    Mutation(
        "loss: targets are repeated sample by sample, not step by step",
        "utils/loss.py",
        "labels.repeat(T, *[1] * (labels.dim() - 1))",
        "labels.repeat_interleave(T, 0)",
        "tests/test_loss.py",
    ),
    Mutation(
        "loss: the cross-entropy keeps its whole weight",
        "utils/loss.py",
        "(1 - loss_lambda) * ce + loss_lambda",
        "ce + loss_lambda",
        "tests/test_loss.py",
    ),
    Mutation(
        "accuracy: the last step's logits predict, not their sum",
        "utils/meter.py",
        "logits.detach().sum(0).argmax(1)",
        "logits.detach()[-1].argmax(1)",
        "tests/test_engine.py",
    ),
    Mutation(
        "split: test digits are trained on",
        "data/digits.py",
        "    return train, test",
        "    return torch.cat([train, test]), test",
        "tests/test_images.py::test_digits_split_is_fixed_stratified_and_disjoint",
    ),
    Mutation(
        "split: DVS-CIFAR10's test files are the first hundred",
        "data/dvs_cifar10.py",
        '"last": (range(900, 1000)',
        '"last": (range(100)',
        "tests/test_dvs_cifar10.py::test_split_goes_by_file_number",
    ),
    Mutation(
        "randomness: each epoch draws the same",
        "data/task.py",
        "with keyed_rng(self.seed, epoch, index):",
        "with keyed_rng(self.seed, index):",
        "tests/test_images.py::test_each_epoch_draws_anew",
    ),
    Mutation(
        "resume: the optimiser's momentum is forgotten",
        "utils/resume.py",
        "optimizer.load_state_dict(optimizer)",
        'optimizer.load_state_dict({**optimizer, "state": {}})',
        "tests/test_resume.py::test_stopped_and_resumed[resident-1]",
    ),
    Mutation(
        "resume: a run is taken for another's",
        "settings/resume.py",
        "    if changed:\n",
        "    if not changed:\n",
        "tests/test_changed_settings.py -k refused_resume_changes_nothing",
    ),
    Mutation(
        "conversion: LIF's twin of PLIF gets 1 − 1/τ for τ",
        "deploy/conversion.py",
        "1 / w.double().sigmoid().item()",
        "1 / (1 - w.double().sigmoid().item())",
        "tests/test_conversion.py::test_plif_keeps_what_it_has_learned",
    ),
    Mutation(
        "conversion: every layer's reset is soft",
        "deploy/conversion.py",
        "v_reset=resets[name],",
        "v_reset=None,",
        "tests/test_conversion.py::test_one_value_is_the_same_value_for_each_layer "
        "tests/test_conversion.py::test_twins_match_golden -k one_value or snn5_noAP-CLIF-T4",
    ),
    Mutation(
        "nir: a neuron's time constant is not in seconds",
        "deploy/nir_nodes.py",
        '"tau": tau * self.dt,',
        '"tau": tau,',
        "tests/test_nir.py::test_plif_with_a_hard_reset_is_expressible",
    ),
    Mutation(
        "events: the polarities of AEDAT 2.0 are not exchanged",
        "data/events.py",
        "1 - p.astype(np.int64)",
        "p.astype(np.int64)",
        "tests/test_events.py::test_aedat2_orientation_is_the_published_one",
    ),
    Mutation(
        "checkpoint: pickles run what they hold",
        "utils/checkpoint.py",
        "weights_only=True",
        "weights_only=False",
        "tests/test_bad_checkpoints.py::test_bad_checkpoint -k code",
    ),
)
