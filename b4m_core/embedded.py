"""Where the small model lies that comes with us: in the package that pip installed, or beside b4m_core in the pack."""

from pathlib import Path


def embedded_model() -> Path:
    """The folder of the embedded SDXL, in diffusers' layout: 192 px, made on drawn scenes; it has no tokenizer."""
    here = Path(__file__).resolve().parent
    inside = here / "mini"
    return inside if inside.is_dir() else here.parent / "mini"
