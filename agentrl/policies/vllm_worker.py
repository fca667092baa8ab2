"""What runs inside of vLLM's workers: methods that their class gains (``worker_extension_cls``), and a watch over the process that
they work for, which may be killed without a word."""

from __future__ import annotations

import os
import select
import threading
from typing import Any

from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

OWNER = "AGENTRL_ENGINE_OWNER"  # the variable that holds the process to work for


class WorkerExtension:
    """Mixed into vLLM's Worker, whose attributes these are."""

    model_runner: Any

    def take_weights(self, folder: str) -> None:
        """Loads the weights in a folder in place of the present ones."""
        self.model_runner.reload_weights(weights_path=folder)
        # A head that shares its weights with the embedding is loaded with it, but on a CPU multiplies by a packed copy of them.
        for module in self.model_runner.get_model().modules():
            if isinstance(module, ParallelLMHead) and hasattr(module, "cpu_linear"):
                module.quant_method.process_weights_after_loading(module)


def end_with(process: int) -> None:
    """Ends this process as soon as that one is gone."""
    try:
        watched = os.pidfd_open(process)
    except ProcessLookupError:
        os._exit(1)

    def wait() -> None:
        select.select([watched], [], [])
        os._exit(1)

    threading.Thread(target=wait, name="owner", daemon=True).start()


if OWNER in os.environ:  # a worker imports this before it reads any weights
    end_with(int(os.environ[OWNER]))
