"""Metrics, score tables and the pages that show them."""
