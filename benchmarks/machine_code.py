"""What Triton's kernels are for a GPU that is not there: compiled by Triton's own launcher, then read.

A launch compiles, with the specialisations that a real one would get, and runs nothing. Registers, stack (what spills
from registers: PTX never shows it) and instructions come from tools that Triton's wheel brings.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
WARP = 32  # threads
# of a multiprocessor: warps, programs, bytes of shared memory (CUDA C++ Programming Guide, compute capabilities)
LIMITS = {80: (64, 32, 164 << 10), 90: (64, 32, 228 << 10)}
REGISTERS, PER_WARP, WARPS_AT_ONCE = 65_536, 256, 4  # of a multiprocessor; and how they are handed out
RESERVED = 1 << 10  # bytes of shared memory that the system keeps of each program
INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+ )?\s*([A-Z0-9_.]+)(?:.*`\((\.L_x_\d+)\))?")
LABEL = re.compile(r"^(\.L_x_\d+):")


class NoGpu:
    """Triton's driver of a GPU that only says what it would be."""

    def __init__(self, capability: int):
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, WARP)

    def get_current_device(self) -> int:
        return self.capability

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def is_active(self) -> bool:
        return True


@dataclass(frozen=True)
class Launch:
    """A launch that was compiled: the kernel's name, its machine code, and what it was compiled for."""

    kernel: str
    compiled: Any
    constants: dict[str, Any]
    capability: int

    @cached_property
    def usage(self) -> dict[str, int]:
        """Registers of a thread, stack of a thread and shared memory of a program in bytes, as ptxas says."""
        text = self._read("cuobjdump", "-res-usage")
        found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+)", text)
        assert found is not None, text
        return dict(zip(("registers", "stack", "shared"), map(int, found.groups()), strict=True))

    @cached_property
    def instructions(self) -> tuple[int, int]:
        """How many there are in the longest loop (in all, if there is none), and besides it."""
        count, longest, labels = 0, 0, {}
        for line in self._read("nvdisasm", "-c").splitlines():
            if label := LABEL.match(line):
                labels[label[1]] = count
            elif (found := INSTRUCTION.match(line)) and found[1] != "NOP":
                count += 1
                start = labels.get(found[2], count)
                if found[1] == "BRA" and start < count - 1:  # a last jump to itself is no loop
                    longest = max(longest, count - start)
        return (longest, count - longest) if longest else (count, 0)

    def per_element_and_step(self, T: int) -> float:
        """Instructions of a warp in the loop over tiles, for each WARP elements and each of T steps."""
        elements = self.constants["ROWS"] * self.constants["COLS"]
        return self.instructions[0] * self.constants["num_warps"] * WARP / (elements * T)

    @property
    def occupancy(self) -> float:
        """The share of a multiprocessor's warps that its registers and shared memory have room for."""
        warps, programs, shared = LIMITS[self.capability]
        each = self.constants["num_warps"]
        registers = -(-self.usage["registers"] * WARP // PER_WARP) * PER_WARP  # of a warp
        room = REGISTERS // registers // WARPS_AT_ONCE * WARPS_AT_ONCE // each
        fit = min(programs, warps // each, room, shared // (self.usage["shared"] + RESERVED))
        return fit * each / warps

    def _read(self, tool: str, option: str) -> str:
        """What one of Triton's tools says of the machine code."""
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(self.compiled.asm["cubin"])
            file.flush()
            command = [str(TOOLS / tool), option, file.name]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@contextmanager
def compile_only(capability: int) -> Iterator[list[Launch]]:
    """In this block launches compile for a GPU of that compute capability, are noted, and run nothing.

    Triton's driver stays that of no GPU: nothing else is to be launched in this process.
    """
    launches: list[Launch] = []
    launch = JITFunction.run

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **constants: Any) -> Any:
        compiled = launch(self, *args, grid=grid, warmup=True, **constants)
        launches.append(Launch(self.fn.__name__, compiled, constants, capability))
        return compiled

    driver.set_active(NoGpu(capability))
    JITFunction.run = run
    try:
        yield launches
    finally:
        JITFunction.run = launch
