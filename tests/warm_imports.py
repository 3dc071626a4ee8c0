"""What the server of `tests/warm_python.py` imports, once for all processes forked from it.

The garbage collector then leaves it alone: it would visit half a million objects at each of a training's collections.
"""

import gc
import importlib

for name in (
    "torch.utils.tensorboard",
    "matplotlib.pyplot",
    "kkanji.checkpoint.export",
    "kkanji.data.dali",
    "kkanji.inference.predict",
    "kkanji.report",
    "kkanji.training.build",
    "kkanji.training.trainer",
    "launch.evaluation",
):
    importlib.import_module(name)

gc.collect()
gc.freeze()
