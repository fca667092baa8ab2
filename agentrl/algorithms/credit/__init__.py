"""Credit: ``(table) -> advantages [K]``, how much better each turn was than what it is compared with.

    the same for every turn of a trajectory     grpo  dr_grpo  rloo  flow_grpo  stratified_grpo  ngrpo  bnpo  spo
                                                reinforce_plus_plus_baseline
    turn by turn                                gigpo  hgpo  return_to_go  mt_grpo  turn_gae  reinforce_plus_plus
    a change of what others gave                empg

A row's penalty is subtracted from that row alone, everywhere, so with penalties the turns of a trajectory differ. Several
methods in a run file add up. Files whose names begin with an underscore hold what methods share.
"""

from typing import Any

from agentrl.algorithms.method import find_method


def __getattr__(name: str) -> Any:
    return find_method(__name__, name)
