"""The Python entry: published numbers, what padding and batch mates must not change, time axis, what is refused."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from sslam.checkpoints import CheckpointError, load_encoder
from sslam.embedding import AudioEmbedder
from sslam.frontends import KaldiFbank
from sslam.networks import AudioViT
from tests.checkpoints import published_files
from tests.reference.formulas import wav_formula

RATE = 16_000


def random_clip(seconds: float, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(round(seconds * RATE), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_embedder__is_front_end_and_encoder_of_the_checkpoint(pre_trained: Path) -> None:
    waveform = torch.from_numpy(wav_formula(0, seconds=5.0))
    embeddings = AudioEmbedder.from_checkpoint(pre_trained, device="cpu", num_frames=512)(waveform)
    features = KaldiFbank(num_frames=512, num_mel_bins=64, mean=-5.0, std=3.0)(waveform[None])
    tokens = load_encoder(pre_trained).eval()(features)
    torch.testing.assert_close(embeddings.clip, tokens[:, 0])
    columns = [tokens[0, 1 + 4 * column : 5 + 4 * column].mean(dim=0) for column in range(32)]
    torch.testing.assert_close(embeddings.frames[0], torch.stack(columns))
    assert embeddings.num_columns.tolist() == [32]
    assert embeddings.logits is None


def test_embedder__pools_as_asked_and_takes_the_teacher(pre_trained: Path) -> None:
    waveform = random_clip(1.0)
    results = {
        pooling: AudioEmbedder.from_checkpoint(pre_trained, device="cpu", pooling=pooling)(waveform)  # type: ignore[arg-type]
        for pooling in ("cls", "mean", "both")
    }
    torch.testing.assert_close(results["mean"].clip, results["cls"].frames.mean(dim=1))
    assert torch.equal(results["both"].clip, torch.cat([results["cls"].clip, results["mean"].clip], dim=1))
    teacher = AudioEmbedder.from_checkpoint(pre_trained, "teacher", "cpu")
    assert not torch.allclose(teacher(waveform).clip, results["cls"].clip, atol=0.1)
    with pytest.raises(ValueError, match="must be one of cls, mean, both, statistics, row_statistics, got 'max'"):
        AudioEmbedder.from_checkpoint(pre_trained, pooling="max")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("num_samples", "num_columns"),
    [(400, 1), (2959, 1), (2960, 2), (160_000, 63), (161_679, 63), (161_680, 64), (1_966_479, 768)],
)
def test_embedder__columns_are_the_frames_rounded_up(pre_trained: Path, num_samples: int, num_columns: int) -> None:
    # 400 samples are one frame, and every 160 more are another one.
    embeddings = AudioEmbedder.from_checkpoint(pre_trained, device="cpu")(random_clip(num_samples / RATE))
    assert embeddings.frames.shape == (1, num_columns, 32)
    assert embeddings.num_columns.tolist() == [num_columns]
    assert embeddings.frames.isfinite().all()


def test_embedder__time_axis() -> None:
    """A click moves the columns whose time is near."""
    embedder = AudioEmbedder(*random_model(), device="cpu")
    times = embedder(random_clip(10.0)).times
    # Column 0 has the frames 0 to 15, whose windows reach from 0 to 150 + 25 ms.
    np.testing.assert_allclose(times[:3], [0.0875, 0.2475, 0.4075], atol=1e-6)
    assert times.shape == (63,)
    quiet, click = torch.zeros(2, 160_000)
    click[round(4.0875 * RATE)] = 1.0  # the centre of a column, 25.0 columns after the first
    features_of = embedder.frontend
    features_of.num_frames = 1008
    difference = (
        (features_of(click[None]) - features_of(quiet[None]))[0].abs().sum(dim=1).unflatten(0, (63, 16)).sum(dim=1)
    )
    assert difference.argmax().item() == 25 == (times - 4.0875).abs().argmin().item()


def random_model() -> tuple:  # type: ignore[type-arg]
    from sslam.networks import AudioViT

    return AudioViT(width=32, depth=1, num_heads=2, num_mel_bins=64), KaldiFbank(num_mel_bins=64)


def test_embedder__batch_mates_and_padding_count_for_nothing(pre_trained: Path) -> None:
    embedder = AudioEmbedder.from_checkpoint(pre_trained, device="cpu", pooling="both")
    lengths = [16_000, 400, 15_999, 48_000, 16_100, 2_960]
    clips = [random_clip(length / RATE, seed) for seed, length in enumerate(lengths)]
    batch = torch.full((6, 48_000), 0.7)  # padding that would be noticed
    for row, clip in zip(batch, clips, strict=True):
        row[: len(clip)] = clip
    together = embedder(batch, torch.tensor(lengths))
    for row, clip in enumerate(clips):
        alone = embedder(clip)
        columns = int(alone.num_columns)
        torch.testing.assert_close(together.clip[row], alone.clip[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(together.frames[row, :columns], alone.frames[0], rtol=1e-5, atol=1e-5)
        assert (together.frames[row, columns:] == 0).all()
        assert together.num_columns[row] == columns
    reversed_batch = embedder(batch.flip(0), torch.tensor(lengths[::-1]))
    torch.testing.assert_close(reversed_batch.clip.flip(0), together.clip, rtol=1e-5, atol=1e-5)


def test_embedder__with_a_fixed_number_of_frames_pads_and_cuts(pre_trained: Path) -> None:
    embedder = AudioEmbedder.from_checkpoint(pre_trained, device="cpu", num_frames=128)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the front end's warning of another length is not for here
        short, long = embedder(random_clip(0.5)), embedder(random_clip(150.0))
    assert short.frames.shape == long.frames.shape == (1, 8, 32)
    assert short.num_columns.tolist() == [3]
    assert long.num_columns.tolist() == [8]
    with pytest.raises(ValueError, match="num_frames must be a multiple of 16 and at most 12288, got 100"):
        AudioEmbedder.from_checkpoint(pre_trained, num_frames=100)


def test_embedder__takes_arrays_of_any_float_type(pre_trained: Path) -> None:
    embedder = AudioEmbedder.from_checkpoint(pre_trained, device="cpu")
    waveform = random_clip(1.0)
    expected = embedder(waveform).clip
    assert torch.equal(embedder(waveform.numpy()).clip, expected)
    assert torch.equal(embedder(waveform.numpy().astype(np.float64)[None]).clip, expected)
    assert not expected.requires_grad


def test_embedder__silence_is_embedded(pre_trained: Path) -> None:
    assert AudioEmbedder.from_checkpoint(pre_trained, device="cpu")(torch.zeros(16_000)).clip.isfinite().all()


@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        (torch.zeros(399), r"at least 400 samples \(25 ms\), got 399. Pad it with zeros"),
        (torch.zeros(160), "at least 400 samples"),
        (torch.zeros(1_966_480), "at most 768 columns .two minutes. long, got 769. Cut it into pieces"),
        (torch.full((800,), torch.nan), "holds NaN or infinite samples"),
        (torch.full((800,), torch.inf), "holds NaN or infinite samples"),
        (torch.zeros(800, dtype=torch.int16), "floating-point samples in .-1, 1., got torch.int16. Divide 16-bit"),
        (torch.zeros(1, 2, 800), r"shape \(T,\) or \(B, T\), got \(1, 2, 800\)"),
        (torch.zeros(0, 800), r"got \(0, 800\)"),
    ],
)
def test_embedder__refuses_what_it_cannot_embed(pre_trained: Path, waveform: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AudioEmbedder.from_checkpoint(pre_trained, device="cpu")(waveform)


def test_embedder__refuses_wrong_lengths(pre_trained: Path) -> None:
    embedder = AudioEmbedder.from_checkpoint(pre_trained, device="cpu")
    for lengths in ([800], [800, 801]):
        with pytest.raises(ValueError, match="num_samples must be 2 lengths of at most 800 samples, got"):
            embedder(torch.zeros(2, 800), torch.tensor(lengths))


@torch.no_grad()
def test_embedder__logits_of_a_classifier_are_pooled_as_it_was_trained(classifier: Path) -> None:
    embedder = AudioEmbedder.from_checkpoint(classifier, device="cpu")  # CLS token for the embeddings
    embeddings = embedder(random_clip(1.0))
    state = torch.load(classifier, weights_only=True)["state_dict"]
    normed = torch.nn.functional.layer_norm(embeddings.frames.mean(dim=1), (32,), eps=1e-6)
    expected = normed @ state["head.weight"].T + state["head.bias"]
    assert embeddings.logits is not None
    torch.testing.assert_close(embeddings.logits, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(embedder.probabilities(embeddings.logits), expected.softmax(dim=1), rtol=1e-4, atol=1e-5)
    assert embedder.class_names == ["cat", "dog", "siren, distant", "rain"]


@pytest.mark.slow
def test_embedder__agrees_with_the_published_fine_tuned_model(tmp_path: Path) -> None:
    """The published numbers were measured on features, which here take the place of what the front end makes."""
    from tests.reference.formulas import input_formula

    model = published_files.fine_tuned(width=768, depth=12, num_classes=527)
    path = published_files.save_published(tmp_path / "finetuned.pt", model)
    embedder = AudioEmbedder.from_checkpoint(path, device="cpu", num_frames=1024, mean=-4.268, std=4.569)
    embedder.frontend.forward = lambda waveform, num_samples: torch.from_numpy(input_formula(2)).squeeze(1)  # type: ignore[method-assign]
    embeddings = embedder(torch.zeros(2, 160_000))
    reference = np.load(Path(__file__).parents[1] / "reference" / "checkpoint_fine_tuned.npz")
    np.testing.assert_allclose(embeddings.clip, reference["features_cls"], rtol=1e-4, atol=1e-5)
    assert embeddings.logits is not None
    np.testing.assert_allclose(embeddings.logits, reference["logits"], rtol=1e-4, atol=1e-5)


def test_from_checkpoint__takes_audiosets_statistics_for_a_published_file(tmp_path: Path) -> None:
    path = published_files.save_published(tmp_path / "published.pt", published_files.pre_trained())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        embedder = AudioEmbedder.from_checkpoint(path, device="cpu")
    assert (embedder.frontend.mean, embedder.frontend.std, embedder.frontend.num_mel_bins) == (-4.268, 4.569, 128)


def test_from_checkpoint__tells_which_statistics_it_takes_where_nothing_is_stated(tmp_path: Path) -> None:
    encoder = AudioViT(width=64, depth=1, num_heads=1)
    path = tmp_path / "bare.pt"
    torch.save({f"student.{name}": tensor for name, tensor in encoder.state_dict().items()}, path)
    with pytest.warns(UserWarning, match="does not state the mean .* AudioSet's -4.268 and 4.569 are taken") as caught:
        embedder = AudioEmbedder.from_checkpoint(path, device="cpu")
    assert len(caught) == 1
    assert (embedder.frontend.mean, embedder.frontend.std, embedder.frontend.num_mel_bins) == (-4.268, 4.569, 128)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        embedder = AudioEmbedder.from_checkpoint(path, device="cpu", mean=-6.627, std=5.359)
    assert (embedder.frontend.mean, embedder.frontend.std) == (-6.627, 5.359)


def test_from_checkpoint__refuses_what_is_no_model(tmp_path: Path, classifier: Path) -> None:
    with pytest.raises(CheckpointError, match="There is no file"):
        AudioEmbedder.from_checkpoint(tmp_path / "nothing.ckpt")
    with pytest.raises(CheckpointError, match="holds no teacher"):
        AudioEmbedder.from_checkpoint(classifier, weights="teacher")
    root = torch.load(classifier, weights_only=True)
    root["state_dict"] = {name: value for name, value in root["state_dict"].items() if not name.startswith("fc_norm")}
    torch.save(root, tmp_path / "headless.ckpt")
    with pytest.raises(CheckpointError, match=r"head without its norm \(fc_norm\)"):
        AudioEmbedder.from_checkpoint(tmp_path / "headless.ckpt")
