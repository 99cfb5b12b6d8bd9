from ._backends import format_bytes, free_memory

__all__ = ["format_bytes", "free_memory"]
