"""The fair experiment: arms, trials, what is seen of them, and what is still to be run."""
