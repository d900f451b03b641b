"""What a run does: networks, phases, objectives, optimizers, the members of a sweep."""
