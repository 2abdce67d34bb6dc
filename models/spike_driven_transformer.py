"""The Spike-Driven Transformer (Yao et al., NeurIPS 2023), by the names of its published state dict."""

from __future__ import annotations

from functools import partial

from spikingjelly.activation_based import layer
from torch import Tensor, nn

from .layers import Conv2d, Parts, SpikingNetwork, conv3x3, norm_and_fire


class PatchEmbedding(nn.Module):
    """Four conv3×3 – norm – neuron – max-pool 3×3 stages (the fourth pools before its neuron, on real values), and a
    fifth convolution for the relative position, added to the fourth's membrane potential.

    [T, N, in_channels, H, W] → real values [T, N, dim, H′, W′].

    Args:
        pooling: which of the four stages halve the frame, as published: ``"0111"``.
    """

    def __init__(self, parts: Parts, in_channels: int, dim: int, pooling: str):
        super().__init__()
        self.proj_conv, self.proj_bn = conv3x3(in_channels, dim // 8), parts.norm(dim // 8)
        self.proj_lif = parts.neuron()
        self.proj_conv1, self.proj_bn1 = conv3x3(dim // 8, dim // 4), parts.norm(dim // 4)
        self.proj_lif1 = parts.neuron()
        self.proj_conv2, self.proj_bn2 = conv3x3(dim // 4, dim // 2), parts.norm(dim // 2)
        self.proj_lif2 = parts.neuron()
        self.proj_conv3, self.proj_bn3 = conv3x3(dim // 2, dim), parts.norm(dim)
        self.proj_lif3 = parts.neuron()
        self.rpe_conv, self.rpe_bn = conv3x3(dim, dim), parts.norm(dim)
        pools = [layer.MaxPool2d(3, 2, 1, step_mode="m") if stage == "1" else nn.Identity() for stage in pooling]
        self.maxpool, self.maxpool1, self.maxpool2, self.maxpool3 = pools

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(norm_and_fire(self.proj_bn, self.proj_lif, self.proj_conv(x)))
        x = self.maxpool1(norm_and_fire(self.proj_bn1, self.proj_lif1, self.proj_conv1(x)))
        x = self.maxpool2(norm_and_fire(self.proj_bn2, self.proj_lif2, self.proj_conv2(x)))
        x = self.maxpool3(self.proj_bn3(self.proj_conv3(x)))
        return self.rpe_bn(self.rpe_conv(self.proj_lif3(x))) + x


class Attention(nn.Module):
    """Spike-driven self-attention: q ⊙ N(Σ_tokens k ⊙ v), with q, k, v spikes and N a neuron of V_th = 0.5.

    The sum is over H and W for each channel, so that the published split into heads has no effect, and its
    convolution over heads (``talking_heads``) is built and never called there.

    [T, N, dim, H, W] → the same, x + the attention's branch (membrane shortcut).
    """

    def __init__(self, parts: Parts, dim: int):
        super().__init__()
        self.shortcut_lif = parts.neuron()
        self.q_conv, self.q_bn, self.q_lif = conv1x1(dim, dim, bias=False), parts.norm(dim), parts.neuron()
        self.k_conv, self.k_bn, self.k_lif = conv1x1(dim, dim, bias=False), parts.norm(dim), parts.neuron()
        self.v_conv, self.v_bn, self.v_lif = conv1x1(dim, dim, bias=False), parts.norm(dim), parts.neuron()
        self.talking_heads_lif = parts.neuron(v_threshold=0.5)
        self.proj_conv, self.proj_bn = conv1x1(dim, dim), parts.norm(dim)

    def forward(self, x: Tensor) -> Tensor:
        spike = self.shortcut_lif(x)
        q = norm_and_fire(self.q_bn, self.q_lif, self.q_conv(spike))
        k = norm_and_fire(self.k_bn, self.k_lif, self.k_conv(spike))
        v = norm_and_fire(self.v_bn, self.v_lif, self.v_conv(spike))
        mask = self.talking_heads_lif((k * v).sum((-2, -1)))  # [T, N, C, H, W] → [T, N, C]
        return x + self.proj_bn(self.proj_conv(q * mask[..., None, None]))


class MLP(nn.Module):
    """x + norm(conv1×1(N(norm(conv1×1(N(x)))))), four times as wide in between: [T, N, dim, H, W] → the same."""

    def __init__(self, parts: Parts, dim: int):
        super().__init__()
        self.fc1_lif, self.fc1_conv, self.fc1_bn = parts.neuron(), conv1x1(dim, 4 * dim), parts.norm(4 * dim)
        self.fc2_lif, self.fc2_conv, self.fc2_bn = parts.neuron(), conv1x1(4 * dim, dim), parts.norm(dim)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc1_conv(self.fc1_lif(x))
        y = self.fc2_conv(norm_and_fire(self.fc1_bn, self.fc2_lif, y))
        return x + self.fc2_bn(y)


class Block(nn.Module):
    """Attention, then an MLP: [T, N, dim, H, W] → the same."""

    def __init__(self, parts: Parts, dim: int):
        super().__init__()
        self.attn, self.mlp = Attention(parts, dim), MLP(parts, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(self.attn(x))


class SpikeDrivenTransformer(SpikingNetwork):
    """Patch embedding, ``depth`` blocks, mean over H and W, neuron, linear.

    As published its batch norms merge T into the batch, and its neuron is LIF with ``v_reset=0.0``, ``decay_input``,
    ``detach_reset`` and the sigmoid surrogate. Its drop path is built and never called there, and dropout is 0. The
    max-pools 3×3 of k, v, k ⊙ v and q ⊙ mask that it has on CIFAR10-DVS alone are left out: no result of the CLIF paper
    has them.

    Args:
        parts: how to make neurons and norms.
        num_classes: K. in_channels: C. input_size: H = W.
        dim: D, a multiple of 8. depth: blocks.
        pooling: which of the four convolutions of the patch embedding halve the frame; None takes the published one
            for the size: the last two up to 64×64, the last three up to 128×128, else all.
    """

    unused_weights = ("attn.talking_heads.weight",)  # what a published state dict holds and no forward pass reads

    def __init__(
        self,
        parts: Parts,
        num_classes: int,
        in_channels: int,
        input_size: int,
        dim: int = 256,
        depth: int = 2,
        pooling: str | None = None,
    ):
        super().__init__()
        if pooling is None:
            pooling = "0011" if input_size <= 64 else "0111" if input_size <= 128 else "1111"
        self.patch_embed = PatchEmbedding(parts, in_channels, dim, pooling)
        self.block = nn.Sequential(*[Block(parts, dim) for _ in range(depth)])
        self.head_lif = parts.neuron()
        self.head = layer.Linear(dim, num_classes, step_mode="m")
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def run(self, x: Tensor) -> Tensor:
        x = self.through(self.patch_embed, x)
        for block in self.block:
            x = self.through(block, x)
        return self.head(self.head_lif(x.mean((-2, -1))))  # [T, N, D, H, W] → [T, N, D] → [T, N, K]


def conv1x1(in_channels: int, out_channels: int, bias: bool = True) -> Conv2d:
    return Conv2d(in_channels, out_channels, 1, bias=bias, step_mode="m")


spike_driven_transformer = SpikeDrivenTransformer  # 2 blocks of 256 channels: DVS-Gesture and CIFAR10-DVS
spike_driven_transformer_2_512 = partial(SpikeDrivenTransformer, dim=512)  # CIFAR
