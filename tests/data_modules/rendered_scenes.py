"""Small scenes that `sslam data render` writes."""

from pathlib import Path
from typing import Any

from sslam.__main__ import main
from tests.commands.conftest import exit_code

OPTIONS: dict[str, Any] = {
    "num_train_scenes": 5, "num_val_scenes": 3, "num_test_scenes": 2, "clip_seconds": 1.5, "events_per_scene": (1, 4),
    "polyphony": (1, 3), "event_seconds": (0.1, 0.5), "seed": 7, "fold": 2,
}  # fmt: skip


def render(root: Path, output: Path, *more: object, **options: Any) -> int:
    args = ["data", "render", root, "--output", output, "--num_workers", 1, *more]
    for name, value in (OPTIONS | options).items():
        args += [f"--{name}", *(value if isinstance(value, tuple) else [value])]
    return exit_code(main, args)
