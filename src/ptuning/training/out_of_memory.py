"""When the memory of a device is full: how PyTorch says so, and how it is let go of."""

import gc

import torch

_WORDS = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "can't allocate memory")
"""In the RuntimeErrors of cuBLAS and cuDNN, of CUDA itself, of MPS, and of a CPU."""


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that memory was full."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)


def let_go() -> None:
    """Give memory that nothing uses any more back to the device."""
    gc.collect()
    torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
