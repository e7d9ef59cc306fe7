"""The parts of the model: each a config and its modules."""
