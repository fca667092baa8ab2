"""Messages ⇄ token ids. The only place that tokenises: everything else carries ids."""

from agentrl.chat.history import Traits
from agentrl.chat.parser import ActionFormat, Parsed, VerlAgentFormat
from agentrl.chat.renderer import Renderer
from agentrl.chat.wordlevel import build_tokenizer

__all__ = ["ActionFormat", "Parsed", "Renderer", "Traits", "VerlAgentFormat", "build_tokenizer"]
