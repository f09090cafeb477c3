"""The Python entry: a checkpoint becomes a function from waveforms to embeddings.

Shape letters: B clips, T samples, P patches, L columns of patches (time), D width, W pooled width, C classes.
"""

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from sslam.audio import Waveform
from sslam.checkpoints import Checkpoint, CheckpointError, UserClasses
from sslam.checkpoints.provenance import read_encoder
from sslam.embedding.windows import join_windows, stack, windows_of
from sslam.frontends import Frontend, KaldiFbank
from sslam.networks import AudioViT, ClassifierHead, Encoder, Readout
from sslam.networks.pooling import Pooling
from sslam.networks.readout import encode

MAX_FRAMES = 768 * 16  # two minutes, what a published transformer takes
HOP_SECONDS = 0.010
WINDOW_SECONDS = 0.025
OVERLAP = 0.1  # of the windows of a long recording
LEAST_COLUMNS = 10  # of such a window, so that it overlaps by one


@dataclass(frozen=True)
class Embeddings:
    """What the encoder says of B clips, in float32 on the embedder's device.

    Attributes:
        clip: One vector per clip, (B, W): the readout, by default the CLS token (W = D).
        frames: One vector per column of patches, (B, L, D): the mean over its frequency patches. L is that of the
            longest clip; what stands behind a clip's own ``num_columns`` is of padding, or zero.
        times: Centres of the columns in seconds from the clip's beginning, (L,). A column is 16 frames of 10 ms with
            windows of 25 ms: column t hears from 0.16 t to 0.16 t + 0.175 s, so its centre is at 0.16 t + 0.0875 s.
            CNN14 has columns of 32 frames.
        num_columns: Columns that hear some of the clip, int64 (B,).
        logits: Logits of a classifier, (B, C); None for other checkpoints.
        patches: Where they were asked for, all patches, (B, L, R, D): R of a column, from the lowest frequency up.
    """

    clip: Tensor
    frames: Tensor
    times: Tensor
    num_columns: Tensor
    logits: Tensor | None
    patches: Tensor | None = None


class Classifier(NamedTuple):
    """The head of a fine-tuned checkpoint, what it takes of the encoder and what makes probabilities of its logits."""

    head: ClassifierHead
    readout: Readout
    activation: Literal["sigmoid", "softmax"]


class AudioEmbedder:
    """An encoder with its front end, in evaluation mode: waveforms in, embeddings out.

    A clip's frames (10 ms each) are rounded up to whole columns of patches, as padding with zeros does in the published
    code. Only clips with the same number of columns go through the encoder together, so that padding to a longer clip
    never counts: the embedding of a clip does not depend on its batch mates, up to the rounding of matrix products.

    What is longer than the encoder hears at once (two minutes, or ``window_seconds``) goes through it in windows that
    overlap by a tenth; vectors and probabilities are means over the windows, and columns come from the window that has
    them nearer its middle. Where ``num_frames`` is given, the beginning of every clip counts alone.

    Args:
        encoder: Encoder of the front end's features.
        frontend: Front end with the statistics that the encoder was trained with; its ``num_frames`` is not used.
        pooling: Pooling that makes ``Embeddings.clip``: ``cls``, ``mean``, ``both``, ``statistics`` or
            ``row_statistics``; see :class:`~sslam.networks.Readout`.
        layers: Numbers of the encoder's layers, from 1, of which it pools the tokens; None for its output.
        window_seconds: Longest part of a recording that goes through the encoder at once; None for two minutes.
        num_frames: Frames that every clip is padded or cut to, a multiple of the patch size; None takes each clip's
            own. The published evaluations use 1024 for 10 s.
        classifier: Classifier for ``Embeddings.logits``.
        class_names: Names of its classes.
        device: Device to compute on; None takes a GPU if there is one.

    Raises:
        ValueError: If the pooling is unknown, the encoder has no such layers, ``num_frames`` is no multiple of the
            patch size or too large, or ``window_seconds`` is shorter than ten columns or too long.
    """

    def __init__(
        self,
        encoder: Encoder,
        frontend: Frontend,
        pooling: Pooling = "cls",
        num_frames: int | None = None,
        classifier: Classifier | None = None,
        class_names: list[str] | None = None,
        device: str | torch.device | None = None,
        layers: Sequence[int] | None = None,
        window_seconds: float | None = None,
    ) -> None:
        self.readout = Readout(pooling, layers)
        self.clip_width = self.readout.width(encoder)
        """W, the size of ``Embeddings.clip``."""
        if not hasattr(encoder, "patch_size"):
            raise ValueError(
                f"{type(encoder).__name__} has no patch_size, the frames to a column of its tokens. Set it in its "
                "constructor."
            )
        self.max_columns = encoder.max_columns or MAX_FRAMES // encoder.patch_size
        longest = self.max_columns * encoder.patch_size
        if num_frames is not None and (num_frames % encoder.patch_size or not 0 < num_frames <= longest):
            raise ValueError(
                f"num_frames must be a multiple of {encoder.patch_size} and at most {longest}, got {num_frames}. Give "
                "1024 for 10 s, 512 for 5 s, 128 for 1 s, or leave it out."
            )
        self.window_columns = self._columns_of_a_window(encoder.patch_size, window_seconds)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.encoder = encoder.to(self.device).eval()
        # One of its own, as the number of frames is set for each clip.
        self.frontend = type(frontend)(**frontend.architecture()).to(self.device)
        self.frontend.expects_length = False
        self.num_frames = num_frames
        self.classifier = classifier
        if classifier is not None:
            classifier.head.to(self.device).eval()
        self.class_names = class_names or []

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        weights: Literal["student", "teacher"] = "student",
        device: str | torch.device | None = None,
        pooling: Pooling = "cls",
        num_frames: int | None = None,
        mean: float | None = None,
        std: float | None = None,
        user_classes: UserClasses = (),
        layers: Sequence[int] | None = None,
        window_seconds: float | None = None,
    ) -> "AudioEmbedder":
        """From a checkpoint of a run, a file of ``sslam convert``, or a published file; nothing in it is executed.

        Args:
            path: A file, a folder or ``hf://owner/name[@revision][/file]``.
            weights: Encoder of a pre-trained file: the student or the teacher.
            device: See the class.
            pooling: See the class.
            num_frames: See the class.
            mean: Mean of the log-mels that the encoder was trained with; by default what the file states, or AudioSet's
                for a published file. Where nothing is known, as of a bare state dict, these are taken with a warning.
            std: Standard deviation likewise.
            user_classes: Classes of your own that the file may name, see :func:`~sslam.checkpoints.read_checkpoint`.
            layers: See the class.
            window_seconds: See the class.

        Raises:
            CheckpointError: If the file cannot be used.
            ValueError: See the class.
        """
        trained = read_encoder(path, weights, user_classes=user_classes)
        checkpoint = trained.checkpoint
        statistics: dict[str, Any] = {name: v for name, v in {"mean": mean, "std": std}.items() if v is not None}
        if "frontend" in checkpoint.networks or not isinstance(trained.encoder, AudioViT):
            frontend = checkpoint.build_frontend(**statistics)
        else:
            frontend = KaldiFbank(num_mel_bins=trained.encoder.num_mel_bins, **statistics)
            if len(statistics) < 2:
                warnings.warn(
                    "The checkpoint does not state the mean and standard deviation of its log-mels, so AudioSet's "
                    "-4.268 and 4.569 are taken. Pass mean and std if it was trained with others.",
                    stacklevel=2,
                )
        classifier = _classifier(checkpoint)
        return cls(
            trained.encoder, frontend, pooling, num_frames, classifier, checkpoint.class_names, device, layers,
            window_seconds,
        )  # fmt: skip

    @property
    def sample_rate(self) -> int:
        """Rate in Hz that waveforms must have."""
        return self.frontend.sample_rate

    @property
    def num_classes(self) -> int:
        """C, or 0 without a classifier."""
        return 0 if self.classifier is None else self.classifier.head.head.out_features

    def columns_in(self, num_samples: Tensor) -> Tensor:
        """Columns of patches that hear some of a clip of so many samples; no more than ``num_frames`` allows."""
        patch_size = self.encoder.patch_size
        num_frames = self.frontend.frames_in(num_samples)
        if self.num_frames is not None:
            num_frames = num_frames.clamp(max=self.num_frames)
        return torch.div(num_frames + patch_size - 1, patch_size, rounding_mode="floor")

    @torch.no_grad()
    def __call__(
        self, waveform: Tensor | NDArray[np.floating[Any]], num_samples: Tensor | None = None, patches: bool = False
    ) -> Embeddings:
        """Embed a clip or several.

        Args:
            waveform: Samples in [-1, 1] at ``sample_rate`` (16 kHz), of one clip (T,) or several (B, T); every row is
                one channel. 25 ms at least.
            num_samples: True lengths (B,) where shorter clips are padded at the end; None: all of T.
            patches: Whether to hand out all patches.

        Returns:
            The embeddings; B is 1 for a single clip.

        Raises:
            ValueError: If the waveform is not of floating-point numbers, not finite, or of a wrong shape or length.
        """
        waveform_BT, num_samples_B = self._checked(waveform, num_samples)
        if self.num_frames is None and int(self.columns_in(num_samples_B).max()) > self.window_columns:
            rows = [row_T[:length] for row_T, length in zip(waveform_BT, num_samples_B.tolist(), strict=True)]
            return stack([self.embed_blocks([row_T.cpu().numpy()], patches) for row_T in rows])
        return self._embed(waveform_BT, num_samples_B, patches)

    @torch.no_grad()
    def embed_blocks(self, blocks: Iterable[Waveform], patches: bool = False) -> Embeddings:
        """Embed one recording of any length that comes in blocks, of which a window's worth is held at a time.

        Args:
            blocks: Samples (T,) in [-1, 1] at ``sample_rate``, one after the other.
            patches: See :meth:`__call__`.

        Returns:
            Embeddings of one clip.

        Raises:
            ValueError: See :meth:`__call__`.
        """
        column = self.encoder.patch_size * self.frontend.hop_length
        length = self.window_columns * column
        # The last frames of a clip may hear samples beyond its columns.
        longest = length + self.frontend.window_length - 1
        whole = longest if self.columns_in(torch.tensor(longest)) <= self.window_columns else length
        step = (self.window_columns - max(1, round(OVERLAP * self.window_columns))) * column
        parts = (
            (start // column, self._embed(*self._checked(samples, None), patches))
            for start, samples in windows_of(blocks, length, step, column, whole)
        )
        return join_windows(parts, self.classifier.activation if self.classifier else None)

    def _embed(self, waveform_BT: Tensor, num_samples_B: Tensor, patches: bool) -> Embeddings:
        """Embeddings of clips that the encoder hears as a whole."""
        own_columns_B = num_columns_B = self.columns_in(num_samples_B)
        if self.num_frames is not None:
            num_columns_B = torch.full_like(own_columns_B, self.num_frames // self.encoder.patch_size)
        longest = int(num_columns_B.max())
        clip_BW = waveform_BT.new_empty(len(waveform_BT), self.clip_width)
        frames_BLD = waveform_BT.new_zeros(len(waveform_BT), longest, self.encoder.width)
        logits_BC = waveform_BT.new_empty(len(waveform_BT), self.num_classes) if self.classifier else None
        of_rows: dict[int, Tensor] = {}
        readouts = [self.readout, *([self.classifier.readout] if self.classifier else [])]
        for num_columns in num_columns_B.unique().tolist():
            rows = (num_columns_B == num_columns).nonzero().squeeze(1)
            features_BLF = self._features(waveform_BT[rows], num_samples_B[rows], num_columns)
            tokens_BPD, of_layer = encode(self.encoder, features_BLF, readouts)
            clip_BW[rows] = self.readout.of_tokens(self.encoder, tokens_BPD, of_layer)
            patches_BLRD = tokens_BPD[:, 1:].unflatten(1, (num_columns, -1))
            frames_BLD[rows, :num_columns] = patches_BLRD.mean(dim=2)
            if patches:
                of_rows |= dict(zip(rows.tolist(), patches_BLRD, strict=True))
            if self.classifier is not None and logits_BC is not None:
                pooled_BW = self.classifier.readout.of_tokens(self.encoder, tokens_BPD, of_layer)
                logits_BC[rows] = self.classifier.head(pooled_BW)
        times_L = self.column_times(longest).to(self.device)
        all_patches = pad_sequence([of_rows[row] for row in sorted(of_rows)], batch_first=True) if patches else None
        return Embeddings(clip_BW, frames_BLD, times_L, own_columns_B, logits_BC, all_patches)

    def probabilities(self, logits_BC: Tensor) -> Tensor:
        """Probabilities (B, C): each for itself, or summing to 1 where the classifier was trained for one label."""
        assert self.classifier is not None
        return logits_BC.sigmoid() if self.classifier.activation == "sigmoid" else logits_BC.softmax(dim=-1)

    def column_times(self, num_columns: int) -> Tensor:
        """Centres of the first columns in seconds, (L,)."""
        column_hops = self.encoder.patch_size
        middle = ((column_hops - 1) * HOP_SECONDS + WINDOW_SECONDS) / 2
        return torch.arange(num_columns) * (column_hops * HOP_SECONDS) + middle

    def _columns_of_a_window(self, patch_size: int, window_seconds: float | None) -> int:
        if window_seconds is None:
            return self.max_columns
        seconds = patch_size * HOP_SECONDS
        columns = math.floor(window_seconds / seconds + 1e-6) if math.isfinite(window_seconds) else 0
        if not min(LEAST_COLUMNS, self.max_columns) <= columns <= self.max_columns:
            raise ValueError(
                f"window_seconds must be between {LEAST_COLUMNS * seconds:g} and {self.max_columns * seconds:g}, got "
                f"{window_seconds:g}."
            )
        return columns

    def _checked(
        self, waveform: Tensor | NDArray[np.floating[Any]], num_samples: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        waveform_BT = torch.as_tensor(waveform)
        if not waveform_BT.is_floating_point():
            raise ValueError(
                f"The waveform must hold floating-point samples in [-1, 1], got {waveform_BT.dtype}. Divide 16-bit "
                "samples by 32768."
            )
        if waveform_BT.dim() == 1:
            waveform_BT = waveform_BT[None]
        if waveform_BT.dim() != 2 or not len(waveform_BT):
            raise ValueError(
                f"The waveform must have the shape (T,) or (B, T), got {tuple(waveform_BT.shape)}. Average channels "
                "first."
            )
        waveform_BT = waveform_BT.to(self.device, torch.float32)
        if not waveform_BT.isfinite().all():
            raise ValueError("The waveform holds NaN or infinite samples. Leave such clips out.")
        most = waveform_BT.shape[1]
        if num_samples is None:
            num_samples = torch.full((len(waveform_BT),), most)
        num_samples_B = torch.as_tensor(num_samples).to(self.device)
        if num_samples_B.shape != (len(waveform_BT),) or int(num_samples_B.max()) > most:
            raise ValueError(
                f"num_samples must be {len(waveform_BT)} lengths of at most {most} samples, got "
                f"{num_samples_B.tolist()}."
            )
        least = self.frontend.window_length
        if (shortest := int(num_samples_B.min())) < least:
            raise ValueError(
                f"A clip must have at least {least} samples ({1000 * WINDOW_SECONDS:g} ms), got {shortest}. Pad it "
                "with zeros."
            )
        return waveform_BT, num_samples_B

    def _features(self, waveform_BT: Tensor, num_samples_B: Tensor, num_columns: int) -> Tensor:
        """Features (B, L, F) of clips with the same number of columns."""
        self.frontend.num_frames = num_columns * self.encoder.patch_size
        # A length that follows from the columns alone, so that sums run alike whatever the batch was padded to.
        wanted = self.frontend.window_length + self.frontend.num_frames * self.frontend.hop_length - 1
        if self.num_frames is None:
            missing = wanted - waveform_BT.shape[1]
            waveform_BT = nn.functional.pad(waveform_BT, (0, max(0, missing)))[:, :wanted]
        features_BLF: Tensor = self.frontend(waveform_BT, num_samples_B)
        return features_BLF


def _classifier(checkpoint: Checkpoint) -> Classifier | None:
    state = {name: value for name, value in checkpoint.tensors.items() if name.startswith(("fc_norm.", "head."))}
    if "head.weight" not in state:
        return None
    if not any(name.startswith("fc_norm.") for name in state):
        raise CheckpointError("The file holds a classifier's head without its norm (fc_norm). Give a whole checkpoint.")
    head = checkpoint.networks["head"].build()
    head.load_state_dict(state)
    return Classifier(head, checkpoint.readout, checkpoint.classifier["activation"])
