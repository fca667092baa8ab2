"""agentrl: train language-model agents in multi-turn environments, with credit assigned to turns."""
