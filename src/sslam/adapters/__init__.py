"""Any checkpoint in the benchmarks of others: HEAR, X-ARES and MTEB. A file is one benchmark's interface, no more."""
