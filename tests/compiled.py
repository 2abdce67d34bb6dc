"""What test_triton_static.py asks of a process that is not Triton's interpreter.

    python tests/compiled.py rows|stacks CASES

compiles the cases, keywords in JSON, and prints for each, in JSON, its rows, or name and stack of each kernel, and the
launches of a norm layer. Rows need the code disassembled, which takes as long as compiling it.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from benchmarks.static import compiled, kernels_of


def stacks(**case: Any) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Name and stack of each kernel, and the launches of a norm layer each way."""
    kernels, launches = kernels_of(**case)
    return [{"kernel": name, "stack": launch.usage["stack"]} for name, launch in kernels], launches


if __name__ == "__main__":
    look = {"rows": compiled, "stacks": stacks}[sys.argv[1]]
    print(json.dumps([look(**case) for case in json.loads(sys.argv[2])]))
