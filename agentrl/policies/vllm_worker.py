"""What runs inside of vLLM's workers: methods that their class gains (``worker_extension_cls``)."""

from __future__ import annotations

from typing import Any

from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead


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
