r"""How stored values are compressed: zstd, with a dictionary.

A single message is too short to repeat itself, and half of it is the same in every
message: the names of its class and fields. The dictionary holds these, so that a short
message takes little more than its text.

The dictionary is part of the format. It never changes: another one would get another
ending of the type, and this one would stay for what is stored. A test holds it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import zstandard

# Shorter data gains nothing; and it must become an eighth smaller.
_BYTES_MIN: Final = 64
_ENDING: Final = "+zstd1"

# As msgpack has them; what is used most often stands last.
_PARTS: Final = (
    b"\xaa__start__",
    b"\xa9__input__\xad__interrupt__",
    b"\xaffunction_call\xacsystem_fingerprint\xa8logprobs\xabstop_reason",
    b"\xb1prompt_tokens\xb1completion_tokens\xb3input_token_details\xaacache_read",
    b"\xb4output_token_details\xa9reasoning",
    b"\xaafinish_reason\xa4stop\xaatool_calls\xabtoken_usage\xaamodel_name",
    b"\xacinput_tokens\xadoutput_tokens\xactotal_tokens",
    b"\x93\xa7msgpack\xc4\x88\xa1v\x02\xa2id\xa2ts\xd9 20+00:00\xaechannel_values\x80",
    b"\xb0channel_versions\xa9__start__\xa8messages\xb0branch:to:",
    b"\xadversions_seen\x83\xa9__input__\x80\xa9__start__\x81\xa9__start__\x01\x81",
    b"\xb0branch:to:\xadpending_sends\x90\xb0updated_channels\x91\xa8messages\x81",
    b"\xa8messages\x91\x00",
    b"\x94\xbelangchain_core.messages.system\xadSystemMessage\x86\xa7content",
    b"\xa4type\xa6system\xa4name\xc0\xa2id\xd9$\xb3model_validate_json",
    b"\xa4name\xa4args\xa2id\xa4type\xa9tool_call",
    b"\x94\xbclangchain_core.messages.tool\xabToolMessage\x89\xa7content",
    b"\xb1additional_kwargs\x80\xb1response_metadata\x80\xa4type\xa4tool\xa4name\xc0",
    b"\xa2id\xd9$\xactool_call_id\xbdcall_\xa8artifact\xc0\xa6status\xa7success",
    b"\xb3model_validate_json",
    b"\x94\xbdlangchain_core.messages.human\xacHumanMessage\x86\xa7content",
    b"\xb1additional_kwargs\x80\xb1response_metadata\x80\xa4type\xa5human\xa4name\xc0",
    b"\xa2id\xd9$\xb3model_validate_json",
    b"\x91\xc8\x05\x94\xbalangchain_core.messages.ai\xa9AIMessage\x89\xa7content\xd9",
    b"\xb1additional_kwargs\x80\xb1response_metadata\x80\xa4type\xa2ai\xa4name\xc0",
    b"\xa2id\xd9,lc_run--\xaatool_calls\x90\xb2invalid_tool_calls\x90",
    b"\xaeusage_metadata\xc0\xb3model_validate_json",
)
DICTIONARY: Final = b"".join(_PARTS)
_SHARED: Final = zstandard.ZstdCompressionDict(
    DICTIONARY, dict_type=zstandard.DICT_TYPE_RAWCONTENT
)


@dataclass(frozen=True, slots=True)
class Blob:
    """A serialized value and the name that the serializer gave its encoding."""

    type: str
    data: bytes


def squeezed(blob: Blob) -> Blob:
    """Compressed, if that pays; its type says so."""
    if len(blob.data) < _BYTES_MIN:
        return blob
    # Neither object may be used by two threads at once.
    data = zstandard.ZstdCompressor(dict_data=_SHARED).compress(blob.data)
    if len(data) > len(blob.data) * 7 // 8:
        return blob
    return Blob(blob.type + _ENDING, data)


def expanded(blob: Blob) -> Blob:
    """As it was before `squeezed`."""
    if not blob.type.endswith(_ENDING):
        return blob
    data = zstandard.ZstdDecompressor(dict_data=_SHARED).decompress(blob.data)
    return Blob(blob.type.removesuffix(_ENDING), data)
