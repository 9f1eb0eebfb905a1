from ..photos import folder, no_network, photos

__all__ = ["folder", "no_network", "photos"]  # fixtures
