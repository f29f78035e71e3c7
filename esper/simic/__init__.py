"""Control that learns: what its learners are made of - features, snapshots, replay, curriculum, gradient statistics."""
