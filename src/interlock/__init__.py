"""Interlock: a closed loop around one machine-learning model.

1. Files land in an inbox; accepted rows become an immutable *snapshot*.
2. The snapshot and the user's training file become a *bundle*, named by its digest.
3. The *gate* releases the bundle only on evidence that it beats the champion and a trivial baseline.
4. The release in force answers; a bad batch is never published.
5. Every step is an entry in an append-only, hash-chained *ledger*.
6. The next turn reads what the last one recorded: the loop closes in data, not in imports.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
