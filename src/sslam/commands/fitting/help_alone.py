"""Imports of a process that prints the help of `sslam fit` and ends."""

import sys
from types import ModuleType

# What torchmetrics imports, where it is installed, for metrics that are not ours.
OF_OPTIONAL_METRICS = ("scipy", "matplotlib", "librosa", "onnxruntime", "torchvision", "transformers")


def import_lightly() -> None:
    """Let Lightning leave out what --help does not need: half of its CPU seconds.

    torchmetrics finds its optional packages missing, and Lightning gets a stand-in for torch's compiler, of which it
    needs two names. For a process that imports Lightning afterwards and trains nothing.
    """
    from lightning_utilities.core import imports

    is_available, check = imports.package_available, imports.RequirementCache._check_available

    def check_needed(requirement: imports.RequirementCache) -> None:
        if str(requirement.requirement).startswith(OF_OPTIONAL_METRICS):
            requirement.available, requirement.message = False, "left out"
        else:
            check(requirement)

    imports.RequirementCache._check_available = check_needed  # type: ignore[assignment,method-assign]
    imports.package_available = lambda name: name not in OF_OPTIONAL_METRICS and is_available(name)  # type: ignore[assignment]
    compiler = ModuleType("torch._dynamo")
    compiler.OptimizedModule = type("OptimizedModule", (), {})  # type: ignore[attr-defined]
    compiler.disable = lambda function, *_, **__: function  # type: ignore[attr-defined]
    sys.modules[compiler.__name__] = compiler
