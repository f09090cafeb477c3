"""What `sslam fit` does around Lightning's command line: config files, run folder, resuming, messages."""
