"""The command line: one file is one command. Nothing of the library imports it."""
