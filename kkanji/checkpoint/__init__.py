"""Checkpoints: `from kkanji import checkpoint`, then `checkpoint.save(...)`, `checkpoint.newest(...)` and so on.

The package itself exports reading and writing (`files`), which everything else here is built on. What also needs
networks or data is imported from its module: `load` (networks), `average`, `export`, `lineage`.
"""

from kkanji.checkpoint.files import (
    CLASSES,
    KEEP,
    MODEL,
    NOTHING_LEFT,
    OPTIMIZER,
    ORIGINALS,
    STATE,
    USABLE,
    CorruptCheckpoint,
    check,
    has_originals,
    identity,
    load_model,
    load_optimizer,
    load_training,
    newest,
    originals_bytes,
    read_classes,
    read_originals,
    read_state,
    save,
    usable_state,
    weights_identity,
    write_hashed,
)

__all__ = [
    "CLASSES",
    "KEEP",
    "MODEL",
    "NOTHING_LEFT",
    "OPTIMIZER",
    "ORIGINALS",
    "STATE",
    "USABLE",
    "CorruptCheckpoint",
    "check",
    "has_originals",
    "identity",
    "load_model",
    "load_optimizer",
    "load_training",
    "newest",
    "originals_bytes",
    "read_classes",
    "read_originals",
    "read_state",
    "save",
    "usable_state",
    "weights_identity",
    "write_hashed",
]
