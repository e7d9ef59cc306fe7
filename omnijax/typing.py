"""The shape vocabulary that every public signature is written in.

    B batch              T tokens             S keys (attention), cache length
    D width              N query heads        K key/value heads       H head dim
    F ffn width          E experts            C chunk                 V vocabulary
    Q codebooks          R codec frames       M mel bins              A audio samples
    G audio chunks       P patches            L layers

Shapes are checked in tests (tests/conftest.py).
"""

from jaxtyping import Array, ArrayLike, Bool, Float, Int, Key, Num, PyTree, Shaped, UInt

__all__ = ["Array", "ArrayLike", "Bool", "Float", "Int", "Key", "Num", "PyTree", "Shaped", "UInt"]
