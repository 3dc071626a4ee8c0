"""Imported by the process that a pool's processes are forked from, so that imports are shared.

A whole pipeline could not be shared: it has threads.
"""

from kkanji.data import dali  # noqa: F401
from tests.launch.ranks import pool  # noqa: F401
