"""omnijax: a pure-JAX research implementation of the Qwen3.5-Omni system."""

__version__ = "0.1.0"
