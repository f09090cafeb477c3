"""One small checkpoint of each kind as our runs save it, and what they make of a waveform."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sslam.checkpoints import load_separator
from sslam.commands.export import main
from sslam.embedding import AudioEmbedder
from sslam.frontends import LogMel
from sslam.separation import separate_waveform
from tests.checkpoints.test_contrastive import LOG_MEL, cnn14, contrastive_run
from tests.commands.conftest import exit_code
from tests.embedding.conftest import classifier, pre_trained
from tests.report.conftest import write_run
from tests.separation.conftest import save_separator, tiny_separator

__all__ = ["classifier", "pre_trained", "write_run"]

WAVEFORM = 0.1 * np.random.default_rng(5).standard_normal(20_000).astype(np.float32)


@pytest.fixture(scope="session")
def checkpoints(pre_trained: Path, classifier: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {
        "pre_trained": pre_trained,
        "fine_tuned": classifier,
        "contrastive": contrastive_run(folder / "contrastive.ckpt", cnn14(), LogMel(**LOG_MEL)),
        "separator": save_separator(folder / "separator.ckpt", tiny_separator()),
    }


@pytest.fixture
def export(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """`sslam export` under a licence, its exit code, and what it says where it refuses."""

    def run(checkpoint: Path, folder: Path, *more: object) -> tuple[int, str]:
        capsys.readouterr()
        code = exit_code(main, [checkpoint, folder, "--license", "cc-by-4.0", *more])
        return code, capsys.readouterr().err

    return run


def heard(path: Path | str) -> list[NDArray[np.float32]]:
    """What a model makes of one waveform: vectors, frames and logits, or sources."""
    if "separator" in str(path):
        return [separate_waveform(load_separator(path), WAVEFORM, 16_000).numpy()]
    embeddings = AudioEmbedder.from_checkpoint(path, device="cpu")(WAVEFORM)
    logits = [] if embeddings.logits is None else [embeddings.logits.numpy()]
    return [embeddings.clip.numpy(), embeddings.frames.numpy(), *logits]
