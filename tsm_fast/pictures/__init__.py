"""Pictures: read from files, drawn, and put into pages."""

from .photos import load_photos

__all__ = ["load_photos"]
