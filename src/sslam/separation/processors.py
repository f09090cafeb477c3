"""Frozen separators that make channels of clips: what the separation-contrastive paper calls processors (sec. 5.3).

Shape letters: B clips, N channels, T samples.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from sslam.audio import SAMPLE_RATE
from sslam.checkpoints import load_separator
from sslam.checkpoints.location import is_hub_address, resolve
from sslam.checks import at_least
from sslam.networks import Separator
from sslam.separation.cache import ChannelCache


class Processors:
    """Separators from checkpoint files, which separate on the fly, or whose channels are read from caches.

    Whole clips are separated at their true length, as the network's norm runs over all of a clip; nothing is trained.
    Under bf16-mixed precision the separators run in bfloat16, too; a cache was made in float32.

    Args:
        files: Checkpoints of MixIT runs, or files that ``sslam convert`` wrote, such as ``step=00000000.ckpt`` and
            ``end.ckpt`` of :class:`callbacks.StepCheckpoints`. All must make the same number of channels.
        folder: Where they are; names with a folder of their own are taken from there, and ``hf://`` addresses
            from the Hub.
        cache: Folder with a cache of each file, ``CACHE/step=00000000`` and so on, that ``sslam separate --cache`` made
            of the training clips. None separates on the fly.
        drop_worst: Channels of every clip that are left out: those that hold least of it, see :func:`without_worst`.
            Published, for separators with four outputs: 1 (appendix A).
        clips_at_once: Clips that go through a separator together on a GPU, which bounds the memory. A CPU takes them
            one by one, which is faster: the memory of several would be mapped anew at every layer.
        user_classes: Import paths of separators of your own that the files may name.

    Raises:
        ValueError: If no file is given, one cannot be used, they differ in their number of channels, or a cache is
            missing or was made by another checkpoint.
    """

    def __init__(
        self,
        files: Sequence[str],
        folder: str = "",
        cache: str | None = None,
        clips_at_once: int = 16,
        user_classes: Sequence[str] = (),
        drop_worst: int = 0,
    ) -> None:
        if not files:
            raise ValueError("files is empty; name the checkpoint of at least one separator.")
        at_least(1, clips_at_once=clips_at_once)
        at_least(0, drop_worst=drop_worst)
        found = [resolve(file if is_hub_address(file) else Path(folder) / file) for file in files]
        paths = [location.address for location in found]
        self.separators: list[Separator] = [load_separator(path, user_classes).requires_grad_(False) for path in paths]
        self.clips_at_once = clips_at_once
        for path, separator in zip(paths, self.separators, strict=True):
            if separator.sample_rate != SAMPLE_RATE:
                raise ValueError(f"{path} separates at {separator.sample_rate} Hz; the clips have {SAMPLE_RATE} Hz.")
        numbers = {separator.num_sources for separator in self.separators}
        if len(numbers) > 1:
            raise ValueError(
                f"The separators must make the same number of channels, got {', '.join(map(str, sorted(numbers)))}. "
                "Take checkpoints of one run."
            )
        (num_outputs,) = numbers
        if drop_worst >= num_outputs:
            raise ValueError(
                f"drop_worst is {drop_worst}, and the separators make {num_outputs} channels, of which one must be "
                "left. Drop fewer."
            )
        self.drop_worst = drop_worst
        self.num_channels = num_outputs - drop_worst
        self.caches = None if cache is None else [ChannelCache(Path(cache) / it.name, it.address) for it in found]

    def __len__(self) -> int:
        """How many ways there are to make a clip's channels, of which one is drawn."""
        return len(self.separators)

    def check_caches(self, paths: Sequence[str], num_samples: int) -> None:
        """Refuse caches that were made of other clips, or of longer ones than ``num_samples``, with a ValueError."""
        for cache in self.caches or []:
            cache.check(paths, num_samples)

    def channels(
        self, waveform_BT: Tensor, num_samples_B: Tensor, processor_B: Tensor, paths: Sequence[str] | None = None
    ) -> Tensor:
        """Channels (B, N, T) of every clip, made by the processor that was drawn for it; zero after a clip's end.

        Args:
            waveform_BT: Clips on any device.
            num_samples_B: Their true lengths, on the CPU.
            processor_B: Ways to make the channels, on the CPU: numbers of processors.
            paths: Files of the clips, to read the channels from the caches; None separates on the fly.

        Raises:
            ValueError: If a clip cannot be separated, or its cache is stale.
        """
        if paths is None:
            channels_BNT = self._separate(waveform_BT, num_samples_B, processor_B)
        else:
            channels_BNT = self._read(waveform_BT, num_samples_B, processor_B, paths)
        return without_worst(channels_BNT, waveform_BT, self.drop_worst)

    def _read(self, waveform_BT: Tensor, num_samples_B: Tensor, processor_B: Tensor, paths: Sequence[str]) -> Tensor:
        assert self.caches is not None
        channels_BNT = torch.zeros(
            len(waveform_BT),
            self.num_channels + self.drop_worst,
            waveform_BT.shape[1],
            pin_memory=waveform_BT.is_cuda,  # or the copy would wait for the device
        )
        for row, path in enumerate(paths):
            cache, num_samples = self.caches[int(processor_B[row])], int(num_samples_B[row])
            channels_BNT[row, :, :num_samples] = cache.read(path, num_samples)
        return channels_BNT.to(waveform_BT.device, non_blocking=True)

    @torch.no_grad()
    def _separate(self, waveform_BT: Tensor, num_samples_B: Tensor, processor_B: Tensor) -> Tensor:
        clips_at_once = 1 if waveform_BT.device.type == "cpu" else self.clips_at_once
        num_outputs = self.num_channels + self.drop_worst
        channels_BNT = waveform_BT.new_zeros(len(waveform_BT), num_outputs, waveform_BT.shape[1])
        # Clips of one length and one processor go together; usually all clips have one length.
        for number, separator in enumerate(self.separators):
            separator.to(waveform_BT.device)
            for num_samples in num_samples_B[processor_B == number].unique().tolist():
                rows = ((processor_B == number) & (num_samples_B == num_samples)).nonzero().flatten()
                if num_samples < separator.min_samples:
                    raise ValueError(
                        f"A clip of {num_samples} samples cannot be separated; the separator needs "
                        f"{separator.min_samples}. Leave such clips out."
                    )
                for some in rows.split(clips_at_once):
                    clips = some.to(waveform_BT.device, non_blocking=True)
                    channels_BNT[clips, :, :num_samples] = separator(waveform_BT[clips, :num_samples])
        return channels_BNT


class Cascade(Processors):
    """Two processors one after the other: the second separates a channel that the first has made (sec. 5.3).

    Which of the first one's channels it is, is drawn for each clip. The paper does not say which processors it put
    together, nor whether the second one heard a channel or all of them.

    Args:
        files: The two checkpoints, the first one first; see :class:`Processors`.
        folder: See :class:`Processors`.
        clips_at_once: See :class:`Processors`.
        user_classes: See :class:`Processors`.
        drop_worst: See :class:`Processors`; of the second one's channels.

    Raises:
        ValueError: If there are not two files, or as :class:`Processors`.
    """

    def __init__(
        self,
        files: Sequence[str],
        folder: str = "",
        clips_at_once: int = 16,
        user_classes: Sequence[str] = (),
        drop_worst: int = 0,
    ) -> None:
        if len(files) != 2:
            raise ValueError(f"A cascade has two processors, got {len(files)} files. Name the first and the second.")
        super().__init__(files, folder, None, clips_at_once, user_classes, drop_worst)

    def __len__(self) -> int:
        """The first processor's channels, one of which the second one separates."""
        return self.separators[0].num_sources

    def channels(
        self, waveform_BT: Tensor, num_samples_B: Tensor, processor_B: Tensor, paths: Sequence[str] | None = None
    ) -> Tensor:
        """Channels (B, N, T) of the channel of every clip that was drawn, as :meth:`Processors.channels`."""
        first_BNT = self._separate(waveform_BT, num_samples_B, torch.zeros_like(processor_B))
        chosen_BT = first_BNT[torch.arange(len(first_BNT)), processor_B.to(first_BNT.device, non_blocking=True)]
        second_BNT = self._separate(chosen_BT, num_samples_B, torch.ones_like(processor_B))
        return without_worst(second_BNT, chosen_BT, self.drop_worst)


def without_worst(channels_BNT: Tensor, mixture_BT: Tensor, number: int) -> Tensor:
    """Channels without those that hold least of the mixture, in their order: (B, N - number, T).

    The paper leaves out nearly empty channels by energy and cosine similarity and does not say how (appendix A). Here
    both decide together: a channel's share is its norm over the mixture's, times the cosine between the two, which is
    ``|<channel, mixture>| / |mixture|^2``. Little is left of the mixture in a channel with a small share, be it quiet
    or filled with something else.
    """
    if not number:
        return channels_BNT
    share_BN = (channels_BNT.float() @ mixture_BT.float().unsqueeze(2)).squeeze(2).abs()  # times |mixture|^2
    kept_BN = share_BN.argsort(dim=1, descending=True, stable=True)[:, : channels_BNT.shape[1] - number].sort(dim=1)[0]
    return channels_BNT.gather(1, kept_BN.unsqueeze(2).expand(-1, -1, channels_BNT.shape[2]))
