"""The augmentation policy and the kernels that carry it out: Numba on the CPU, Triton on the GPU."""
