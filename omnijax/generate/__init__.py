"""Text from a Thinker: sampling, batched decoding inside jit, and sessions of several turns."""
