"""What `sslam` gives back to the shell."""

import signal

DONE = 0
FAILED = 1  # a run crashed, the memory did not suffice, or the environment is broken
USERS_MISTAKE = 2  # as argparse has it
REQUEUE = 75  # EX_TEMPFAIL: a scheduler's SIGUSR1 has ended a fit, whose state is kept; the same command goes on
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
TERMINATED = 143  # 128 + SIGTERM

OF_SIGNAL = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED, signal.SIGUSR1: REQUEUE}
