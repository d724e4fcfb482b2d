"""A learned image and video codec whose files decode to the same bits on every machine."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .api import Decoder, Encoder, decode_file, decode_image, encode_file, encode_image
    from .errors import BsqError, FormatError, ModelError
    from .info import AudioPacket, AudioTrack, Frame, MediaInfo

_HOME = {
    "api": ("Decoder", "Encoder", "decode_file", "decode_image", "encode_file", "encode_image"),
    "errors": ("BsqError", "FormatError", "ModelError"),
    "info": ("AudioPacket", "AudioTrack", "Frame", "MediaInfo"),
}
__all__ = [
    "Decoder",
    "Encoder",
    "decode_file",
    "decode_image",
    "encode_file",
    "encode_image",
    "BsqError",
    "FormatError",
    "ModelError",
    "AudioPacket",
    "AudioTrack",
    "Frame",
    "MediaInfo",
]


def __getattr__(name: str):
    """Import what is asked for only then: torch alone takes more than a second."""
    for module, names in _HOME.items():
        if name in names:
            return getattr(import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
