"""A model behind an API as the agent: success, tokens and cost. Starts a tiny server of its own, so it runs anywhere.

python examples/04_api_endpoint.py
agentrl eval agentrl/Household-v0 --policy 'openai:https://HOST/v1#MODEL,key=VARIABLE,price_in=1,price_out=4'
"""

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import agentrl


def appeal(action: str, goal: set[str], seen: str) -> tuple[bool, bool, int]:
    """What is taken or put down must be in the task; then what acts on something of the task; then what was done least of late."""
    verb, *words = action.split()
    named = len(goal & {*words})
    return named >= {"take": 1, "move": 2}.get(verb, 0), named > 0 and verb != "go", -seen.count(action)


class Chat(BaseHTTPRequestHandler):
    """OpenAI's chat completions, by a model that does what sounds most like the task and what it has not just done."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = asked["messages"][-1]["content"]
        seen, _, shown = prompt.partition("Admissible actions:\n")
        goal = {*seen.splitlines()[0].strip(".").split()} - {"a", "the", "to"}
        actions = [action for action in shown.splitlines()[:-1] if not action.startswith(("examine", "close", "look"))]
        best = max(actions, key=lambda action: appeal(action, goal, seen))
        text = f"<action>{best}</action>"
        usage = {"prompt_tokens": len(prompt) // 4, "completion_tokens": len(text) // 4}
        reply = {"choices": [{"message": {"content": text}, "finish_reason": "stop"}], "usage": usage}
        body = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on standard error."""


if __name__ == "__main__":
    os.environ["NO_PROXY"] = "127.0.0.1"  # where requests go through a proxy, these do not
    server = ThreadingHTTPServer(("127.0.0.1", 0), Chat)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    policy = f"openai:http://127.0.0.1:{server.server_port}/v1#tiny,concurrency=4,price_in=1,price_out=4"
    result = agentrl.evaluate("agentrl/Household-v0", policy, n=20, options={"difficulty": "tiny"}, max_turns=15)
    server.shutdown()
    for name in ("success_rate", "ci95", "valid_action_ratio", "calls", "retries", "tokens", "cost"):
        print(f"{name:18}  {result[name]}")
