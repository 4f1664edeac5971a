"""`corl reward replay | audit`: the rewards of a run, from its recorded rollouts."""
