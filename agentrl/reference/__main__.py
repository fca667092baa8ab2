"""``python -m agentrl.reference`` writes the reference pages of this checkout."""

from pathlib import Path

from agentrl.reference import write

if __name__ == "__main__":
    for file in write(Path(__file__).resolve().parents[2]):
        print(f"wrote {file}")
