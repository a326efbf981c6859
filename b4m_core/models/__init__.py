"""Base-model families: another one is a folder beside sdxl/ and one row here.

family.py says what a family is; everything above it trains any network that fits.
"""

from ..errors import B4MError
from .family import Family
from .sdxl import SDXL

FAMILIES: dict[str, Family] = {
    SDXL.name: SDXL,
}
"""By the name that stands in an adapter's file."""


def family_named(name: str) -> Family:
    """The family of that name. Raises :class:`B4MError` for an unknown one."""
    if name not in FAMILIES:
        raise B4MError(
            f"This adapter is for models of the family {name!r}, and this B4M knows {', '.join(FAMILIES)}: update B4M."
        )
    return FAMILIES[name]
