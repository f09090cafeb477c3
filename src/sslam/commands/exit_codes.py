"""What `sslam` gives back to the shell."""

DONE = 0
FAILED = 1  # a run crashed, the memory did not suffice, or the environment is broken
USERS_MISTAKE = 2  # as argparse has it
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
