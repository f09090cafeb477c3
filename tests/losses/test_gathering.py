"""Gathered negatives: losses and averaged gradients of two processes are those of one with the whole batch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from sslam.losses import Coincidence, NTXent, all_gather_with_gradient
from sslam.networks import CoincidenceHead, ProjectionHead, heads

NUM_CLIPS = 6


class Contrastive(nn.Module):
    """An encoder and the heads; its output is the joint loss (equal weights) and both terms."""

    def __init__(self, gather_negatives: bool) -> None:
        super().__init__()
        self.encoder = nn.Linear(5, 8)
        self.projection_head = ProjectionHead(8, hidden=16, out=4)
        self.coincidence_head = CoincidenceHead(8, hidden=16)
        self.similarity, self.coincidence = NTXent(0.3, gather_negatives), Coincidence(gather_negatives)

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        first, second = self.encoder(first), self.encoder(second)
        similarity = self.similarity(self.projection_head(first), self.projection_head(second))
        coincidence = self.coincidence(self.coincidence_head, first, second)
        return similarity + coincidence, similarity, coincidence


def model_and_clips(gather_negatives: bool) -> tuple[Contrastive, Tensor, Tensor]:
    torch.manual_seed(0)
    return Contrastive(gather_negatives), torch.randn(NUM_CLIPS, 5), torch.randn(NUM_CLIPS, 5)


def losses_and_gradients(model: nn.Module, first: Tensor, second: Tensor) -> dict[str, Tensor]:
    total, similarity, coincidence = model(first, second)
    total.backward()
    gradients = {name.removeprefix("module."): weight.grad for name, weight in model.named_parameters()}
    return {"similarity": similarity.detach(), "coincidence": coincidence.detach()} | gradients


def train_part(rank: int, folder: str) -> None:
    """One of two processes, with three of the six clips."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    rows = slice(3 * rank, 3 * rank + 3)
    found = {}
    for name, gather_negatives, pairs_at_once in (("gathered", True, 2**14), ("chunks", True, 7), ("local", False, 7)):
        heads.PAIRS_AT_ONCE = pairs_at_once
        model, first, second = model_and_clips(gather_negatives)
        found[name] = losses_and_gradients(DistributedDataParallel(model), first[rows], second[rows])
    gathered = all_gather_with_gradient(first[rows].bfloat16())
    assert gathered.dtype == torch.float32
    assert torch.equal(gathered, first.bfloat16().float())
    torch.save(found, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def assert_mean_is(expected: dict[str, Tensor], one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    for name, value in expected.items():
        np.testing.assert_allclose((one[name] + other[name]) / 2, value, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.distributed
def test_gathered_negatives__two_processes_are_one_with_the_whole_batch(tmp_path: Path) -> None:
    multiprocessing.spawn(train_part, (str(tmp_path),), nprocs=2)
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    whole = losses_and_gradients(*model_and_clips(gather_negatives=True))
    for name in ("gathered", "chunks"):
        assert_mean_is(whole, one[name], other[name])
        # Every process has the whole of NT-Xent, and its share of coincidence.
        assert one[name]["similarity"] == other[name]["similarity"]
        assert one[name]["coincidence"] != other[name]["coincidence"]

    halves = []
    for rows in (slice(0, 3), slice(3, 6)):
        model, first, second = model_and_clips(gather_negatives=False)
        halves.append(losses_and_gradients(model, first[rows], second[rows]))
    mean_of_halves = {name: (halves[0][name] + halves[1][name]) / 2 for name in whole}
    assert_mean_is(mean_of_halves, one["local"], other["local"])
    assert mean_of_halves["similarity"] < whole["similarity"]  # fewer negatives


def test_all_gather_with_gradient__of_one_process_is_the_tensor_itself() -> None:
    local = torch.randn(3, 4, requires_grad=True)
    assert all_gather_with_gradient(local) is local
