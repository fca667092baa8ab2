"""An agent of one's own: what turns an observation into an action. This one wraps another, and needs no model.

python examples/09_my_own_agent.py
"""

from dataclasses import dataclass, replace

import agentrl
from agentrl.agents import Agent, Decision, Episode, ExpertAgent, RandomAgent, Session, View


@dataclass(frozen=True)
class Eager:
    """Takes what the goal names as soon as it can, and puts it where the goal wants it; does what another agent does else."""

    agent: Agent

    def start(self, episode: Episode) -> Session:
        """A session holds what an agent remembers of one episode; ``episode.rng`` is its own random stream, and an agent with a
        model awaits ``episode.generate`` (see ``agentrl.agents.ChatAgent``)."""
        return EagerSession(self.agent.start(episode))


class EagerSession:
    """One agent in one episode."""

    def __init__(self, session: Session) -> None:
        self.session = session

    async def act(self, view: View) -> Decision:
        """The decision of a turn: an action, and with a model the calls that led to it."""
        decision = await self.session.act(view)
        goal = set(view.info["goal"].strip(".").split())
        for action in view.info["admissible_actions"]:  # "take mug 1 from desk 1", "move mug 1 to shelf 2"
            verb, *names = action.split()
            if verb in ("take", "move") and goal.issuperset(names[::3] if verb == "move" else names[:1]):
                return replace(decision, action=action)
        return decision


if __name__ == "__main__":
    options = {"difficulty": "tiny", "task_types": ["pick_and_place_simple"]}
    for agent in (RandomAgent(), Eager(RandomAgent()), ExpertAgent(noise=0.5), Eager(ExpertAgent(noise=0.5))):
        result = agentrl.evaluate("agentrl/Household-v0", agent, n=100, options=options, max_turns=15)
        low, high = result["ci95"]
        print(f"{agent}  success {result['success_rate']:.2f} [{low:.2f}, {high:.2f}]")
