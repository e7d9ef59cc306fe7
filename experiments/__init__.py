"""One script an experiment; configs under `configs/`."""
