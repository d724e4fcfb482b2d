"""A learned image and video codec whose files decode to the same bits on every machine."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import Decoder, Encoder, decode_image, encode_image
    from .errors import BsqError, FormatError, ModelError
    from .file_decoder import decode_file
    from .file_encoder import encode_file
    from .network.weights import Model, load_model
    from .sample.frames import sample_frames
    from .settings import EncodeSettings
    from .tokens.code import arrays_to_stream
    from .tokens.save import stream_to_arrays
    from .types import Frame, MediaInfo, Packet, Track

__all__ = [
    "BsqError",
    "Decoder",
    "EncodeSettings",
    "Encoder",
    "FormatError",
    "Frame",
    "MediaInfo",
    "Model",
    "ModelError",
    "Packet",
    "Track",
    "arrays_to_stream",
    "decode_file",
    "decode_image",
    "encode_file",
    "encode_image",
    "load_model",
    "sample_frames",
    "stream_to_arrays",
]
_HOMES = {
    "api": ("Decoder", "Encoder", "decode_image", "encode_image"),
    "errors": ("BsqError", "FormatError", "ModelError"),
    "file_decoder": ("decode_file",),
    "file_encoder": ("encode_file",),
    "network.weights": ("Model", "load_model"),
    "sample.frames": ("sample_frames",),
    "settings": ("EncodeSettings",),
    "tokens.code": ("arrays_to_stream",),
    "tokens.save": ("stream_to_arrays",),
    "types": ("Packet", "Track", "Frame", "MediaInfo"),
}


def __getattr__(name: str) -> Any:
    """Import what is asked for only then: torch alone takes more than a second."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
