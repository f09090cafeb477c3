"""Check of an installation: ``python -m sslam.environment`` says what is installed, or what is broken and the remedy.

torch, torchaudio and torchvision are compiled against each other; a pair from different releases, or a CPU build beside
a CUDA build, fails at import with a linker's message that names neither.
"""

import importlib
import sys
from importlib.metadata import PackageNotFoundError, requires, version

COMPILED_TOGETHER = ("torch", "torchaudio", "torchvision")
OTHERS = ("lightning", "timm", "torchmetrics", "soundfile", "soxr", "jsonargparse")


class BrokenEnvironmentError(RuntimeError):
    """An installed package cannot be imported, or one is missing."""


def installed(package: str) -> str:
    """Version of an installed package, or ``not installed``."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def wanted(package: str) -> str:
    """Requirement that sslam has of a package, such as ``torch<2.12,>=2.11.0``."""
    for requirement in requires("sslam") or ():
        if requirement.split(";")[0].rstrip().startswith((f"{package}<", f"{package}>", f"{package}=", f"{package}~")):
            return requirement.split(";")[0].strip()
    return package


def check() -> str:
    """Import what sslam stands on.

    Returns:
        A line with the versions.

    Raises:
        BrokenEnvironmentError: If something is missing or broken; names the versions found, the versions wanted and the
            remedy.
    """
    for package in (*COMPILED_TOGETHER, *OTHERS):
        try:
            importlib.import_module(package)
        except Exception as error:  # a broken binary raises anything: ImportError, OSError, RuntimeError
            found = ", ".join(f"{name} {installed(name)}" for name in dict.fromkeys((*COMPILED_TOGETHER, package)))
            needed = " ".join(f"'{wanted(name)}'" for name in dict.fromkeys((*COMPILED_TOGETHER, package)))
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise BrokenEnvironmentError(
                f"{package} cannot be imported ({reason}).\n"
                f"Found: {found}. torch, torchaudio and torchvision must come from one release, with the same kind of "
                "build (CUDA or CPU).\n"
                f"Remedy: remove .venv and run 'make setup', or: pip install --force-reinstall {needed}"
            ) from error
    return ", ".join(f"{name} {installed(name)}" for name in ("sslam", *COMPILED_TOGETHER, *OTHERS))


def main() -> int:
    """Print the versions and return 0, or print what is broken and return 1."""
    try:
        print(f"Environment is complete: {check()}")  # noqa: T201
    except BrokenEnvironmentError as error:
        print(f"Environment is broken: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
