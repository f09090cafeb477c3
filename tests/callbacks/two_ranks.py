"""Two processes of one machine that train together."""

import os
import socket

import torch


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def join_two_ranks(rank: int, port: int) -> None:
    """Set what Lightning reads of a process that has been started already."""
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "NODE_RANK": "0",
        "LOCAL_WORLD_SIZE": "2",
        "TORCHELASTIC_RUN_ID": "test",  # the processes are there already: Lightning must not start them
        "GROUP_RANK": "0",
    }
    torch.set_num_threads(1)
