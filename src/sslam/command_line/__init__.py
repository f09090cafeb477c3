"""What the command line needs beside Lightning's own: config files, error messages, run folders, resuming."""
