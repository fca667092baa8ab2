"""Tools that ship with agentrl: a new file here is all that a new one needs."""

from agentrl.registry import import_all

import_all(__name__)
