"""What is concluded: the index of runs, their comparison, evaluation of what they kept, and analysis."""
