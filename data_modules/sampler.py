"""Which clip comes when: sharded over processes, and a training loader that resumes exactly.

Why not the plain DataLoader: after a mid-epoch resume it starts the epoch again. Why no stateful loader from a library:
its workers read ahead before Lightning has announced the epoch. The position here is one global count of clips, so that
the same checkpoint (rank 0 writes it) is right on every rank and for any number of workers, processes, or batch size.
"""

import math
import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from sslam.audio import FileProblem

GRACE_SECONDS = 30.0  # between a signal that ends the run and the end of a process that reads clips for it

Request = tuple[int, int]
"""(index, epoch): all that a data set's randomness may depend on, beside its seed."""


class TrainingSampler(DistributedSampler[Any]):
    """A new order every epoch, cut into equal shares; the clips that fill no whole batch on all processes are left out.

    A subclass of DistributedSampler because Lightning leaves those alone, whatever `use_distributed_sampler` says.

    Args:
        num_clips: Size of the data set.
        batch_size: Clips per batch and process.
        num_replicas: Number of processes.
        rank: Number of this process, from 0.
        seed: Seed of the order.
        weights: Weights by which clips are drawn, shape (num_clips,), without replacement within an epoch; None gives
            all the same chance. A clip of weight 0 is never drawn.
        draws_per_epoch: Clips in an epoch; None takes all.

    Raises:
        ValueError: If there is not one whole batch, or fewer clips to draw from than draws.
    """

    def __init__(
        self,
        num_clips: int,
        batch_size: int,
        num_replicas: int = 1,
        rank: int = 0,
        seed: int = 0,
        weights: NDArray[np.float64] | None = None,
        draws_per_epoch: int | None = None,
    ) -> None:
        super().__init__(range(num_clips), num_replicas, rank, seed=seed)  # type: ignore[arg-type]
        self.num_clips = num_clips
        self.clips_per_step = batch_size * num_replicas
        self.weights = weights
        self.num_draws = num_clips if draws_per_epoch is None else draws_per_epoch
        self.start = 0
        """Clips, over all processes, that this epoch's next iteration leaves out because they were seen."""
        num_drawable = num_clips if weights is None else int(np.count_nonzero(weights))
        if self.num_draws > num_drawable:
            raise ValueError(
                f"draws_per_epoch must be at most the number of training clips to draw from, {num_drawable}, because "
                f"no clip is drawn twice in an epoch; got {self.num_draws}. Lower --data.draws_per_epoch."
            )
        if self.num_draws < self.clips_per_step:
            raise ValueError(
                f"{self.num_draws} training clips do not fill one batch of {batch_size} on {num_replicas} process(es). "
                "Lower --data.batch_size or give more clips."
            )

    def _order(self) -> NDArray[np.int64]:
        """This epoch's clips (num_draws,), the same on all processes."""
        rng = np.random.default_rng((self.seed, self.epoch))
        if self.weights is None:
            return rng.permutation(self.num_clips)[: self.num_draws]
        # The clips with the smallest exponential variates of rate `weight` are a weighted sample without replacement
        # (Efraimidis and Spirakis, Information Processing Letters 97, 2006).
        with np.errstate(divide="ignore"):
            keys = rng.standard_exponential(self.num_clips) / self.weights
        drawn = np.argpartition(keys, self.num_draws - 1)[: self.num_draws]
        # Shuffled, or the heaviest clips would come first; sorted before, because a partition's order is arbitrary.
        return rng.permutation(np.sort(drawn))

    def __iter__(self) -> Iterator[Request]:
        order = self._order()
        end = self.num_draws - (self.num_draws - self.start) % self.clips_per_step
        # Interleaved, so that step b is the same block of the order on any number of processes.
        mine = order[self.start + self.rank : end : self.num_replicas]
        return ((int(index), self.epoch) for index in mine)

    def __len__(self) -> int:
        return self.num_draws // self.clips_per_step * self.clips_per_step // self.num_replicas


class EvaluationSampler(DistributedSampler[Any]):
    """Every clip exactly once over all processes, in order: shares may differ by one clip, none is repeated.

    The length is that of the largest share, on every process: where it is 0, Lightning leaves out the whole evaluation,
    and the other processes would wait for this one at its end for ever.
    """

    def __init__(self, num_clips: int, num_replicas: int = 1, rank: int = 0) -> None:
        super().__init__(range(num_clips), num_replicas, rank, shuffle=False)  # type: ignore[arg-type]
        self.indices = range(rank, num_clips, num_replicas)
        self.largest_share = math.ceil(num_clips / num_replicas)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return self.largest_share


def leave_signals_to_the_run(_: int) -> None:
    """For a process that reads clips: it lives until the run, which the same signal has reached, has ended its step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    # Not ignored: should nothing else reach the process, this is how the end of the run ends it.
    signal.signal(signal.SIGTERM, lambda *_: signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS))


class ClipLoader(DataLoader[Any]):
    """A DataLoader that takes the file problems out of each batch, and leaves out a batch of which nothing is left.

    Args:
        dataset: Data set whose samples :func:`~data_modules.audio_file_dataset.collate_clips` takes.
        on_problems: Function that is called in the main process with the problems of each batch.
        **kwargs: Arguments of the DataLoader.
    """

    def __init__(self, dataset: Dataset[Any], on_problems: Callable[[list[FileProblem]], None], **kwargs: Any) -> None:
        super().__init__(dataset, **{"worker_init_fn": leave_signals_to_the_run, **kwargs})
        self.on_problems = on_problems

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        for batch in super().__iter__():
            self.on_problems(batch.pop("skipped"))
            if len(batch["index"]):
                yield batch


class TrainingLoader(ClipLoader):
    """Resumes where a checkpoint was written; Lightning saves and loads its state by itself, with the fit loop's.

    The epoch counts from `sampler.set_epoch`, which Lightning calls after it asked for an iterator: nothing is read
    before the first batch is wanted.
    """

    _epoch = 0
    _clips = 0
    _resume: dict[str, int] | None = None

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        sampler = self.sampler
        if not isinstance(sampler, TrainingSampler):  # Lightning puts a sequential one for Trainer(overfit_batches=...)
            yield from super().__iter__()
            return
        resume, self._resume = self._resume, None
        # A checkpoint of a finished epoch is followed by the next epoch, from its start.
        sampler.start = resume["clips"] if resume and resume["epoch"] == sampler.epoch else 0
        self._epoch, self._clips = sampler.epoch, sampler.start
        for batch in super().__iter__():
            self._clips += sampler.clips_per_step
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The epoch, and how many of its clips all processes together have been given."""
        return {"epoch": self._epoch, "clips": self._clips}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._resume = dict(state_dict)
