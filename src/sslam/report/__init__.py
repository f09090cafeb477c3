"""Results of evaluations: written by runs, gathered into one table and one page."""
