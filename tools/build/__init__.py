"""How sets are written: packing, processes that share an output, offline augmentation, tars made by others."""
