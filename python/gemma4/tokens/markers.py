"""The tokens that control the model, each spelled once.

Knows: how the family writes them. Must not know: their ids, which a vocabulary gives them.
"""

from __future__ import annotations

EOS = "<eos>"
TURN, TURN_END = "<|turn>", "<turn|>"
THINK = "<|think|>"
"""In a system turn: the model may think."""
CHANNEL, CHANNEL_END = "<|channel>", "<channel|>"
"""Around a thought; its first line is the channel's name."""
TOOL, TOOL_END = "<|tool>", "<tool|>"
"""Around the declaration of a tool."""
CALL, CALL_END = "<|tool_call>", "<tool_call|>"
RESPONSE, RESPONSE_END = "<|tool_response>", "<tool_response|>"
QUOTE = '<|"|>'
"""Around a string in a call."""
IMAGE, IMAGE_BEGIN, IMAGE_END = "<|image|>", "<|image>", "<image|>"
AUDIO, AUDIO_BEGIN, AUDIO_END = "<|audio|>", "<|audio>", "<audio|>"
VIDEO = "<|video|>"

ENDS = (EOS, TURN_END, RESPONSE)
"""Where an answer ends: there is no more, the turn is over, or a tool has to answer."""
