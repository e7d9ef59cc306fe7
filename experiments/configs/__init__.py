"""Configs: each file has `get_config(stage)`, named as `--config=FILE:STAGE`."""
