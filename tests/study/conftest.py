from ..photos import folder, no_network, photos  # noqa: F401
from .coins import grounds, pictures, stamps  # noqa: F401
from .discs import discs, made  # noqa: F401
