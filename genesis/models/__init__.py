"""Models shipped with the distribution, one folder each (manifest.json, model.safetensors, tokenizer.json). Owns where
they lie; what is in them is inference's business. Made by training/.
"""

from importlib import resources
from pathlib import Path

DEFAULT_MODEL = "sea-and-sensibility"


def folder(name: str = DEFAULT_MODEL) -> Path:
    """Folder of a shipped model. Raises FileNotFoundError naming the model when there is none."""
    path = Path(str(resources.files(__name__))) / name
    if not (path / "manifest.json").is_file():
        raise FileNotFoundError(f"no shipped model {name!r} under {path.parent}")
    return path
