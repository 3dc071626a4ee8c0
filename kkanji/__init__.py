"""Characters and networks: class map, augmentation, the DALI pipeline, models, training, evaluation, report.

What other programs use is named here, and imported when it is asked for: `from kkanji import Loader` takes torch and
DALI, `from kkanji import ClassMap` takes neither. Bytes and order are in `shards`. Examples: docs/library.md.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kkanji.augment.policy import Policy as Policy
    from kkanji.checkpoint.export import export as export
    from kkanji.checkpoint.load import load_trained as load_trained
    from kkanji.classes import ClassMap as ClassMap
    from kkanji.config import TrainConfig as TrainConfig
    from kkanji.config import train_config as train_config
    from kkanji.data.arrays import write_set as write_set
    from kkanji.data.dali import Batch as Batch
    from kkanji.data.dali import Loader as Loader
    from kkanji.data.feed import Feed as Feed
    from kkanji.data.streams import ImageStream as ImageStream
    from kkanji.data.training_set import class_map as class_map
    from kkanji.data.training_set import open_set as open_set
    from kkanji.data.webdataset_blocks import block_pipeline as block_pipeline
    from kkanji.data.webdataset_blocks import decode_blocks as decode_blocks
    from kkanji.inference.predict import Predictor as Predictor
    from kkanji.models import create_model as create_model
    from kkanji.pixels import normalise as normalise
    from kkanji.training.trainer import train as train

__version__ = "0.1.0"
_MODULES = {
    "Batch": "kkanji.data.dali",
    "ClassMap": "kkanji.classes",
    "Feed": "kkanji.data.feed",
    "ImageStream": "kkanji.data.streams",
    "Loader": "kkanji.data.dali",
    "Policy": "kkanji.augment.policy",
    "Predictor": "kkanji.inference.predict",
    "TrainConfig": "kkanji.config",
    "block_pipeline": "kkanji.data.webdataset_blocks",
    "class_map": "kkanji.data.training_set",
    "create_model": "kkanji.models",
    "decode_blocks": "kkanji.data.webdataset_blocks",
    "export": "kkanji.checkpoint.export",
    "load_trained": "kkanji.checkpoint.load",
    "normalise": "kkanji.pixels",
    "open_set": "kkanji.data.training_set",
    "train": "kkanji.training.trainer",
    "train_config": "kkanji.config",
    "write_set": "kkanji.data.arrays",
}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'kkanji' has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return found
