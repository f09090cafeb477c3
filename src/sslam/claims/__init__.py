"""Claims of the papers, each with the runs that decide it, what they found, and a verdict."""
