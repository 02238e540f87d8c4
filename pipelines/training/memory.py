"""Whether an error says that memory ran out, of the machine or of a GPU."""

SAID_BY_TORCH = ("can't allocate memory", "not enough memory", "CUDA out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def ran_out(error: BaseException | None) -> bool:
    """torch has a type of its own for a GPU's memory only: on the CPU it is a RuntimeError, known by its words."""
    while error is not None:
        named = type(error).__name__ in ("OutOfMemoryError", "MemoryError")
        if named or isinstance(error, MemoryError) or any(said in str(error) for said in SAID_BY_TORCH):
            return True
        error = error.__cause__ or error.__context__
    return False
